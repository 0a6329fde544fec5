-- Run as root each time before slurmdbd starts. slurmdbd comes over MariaDB's socket as the user slurm and is known by
-- that, so that there is no password to keep.
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED VIA unix_socket;
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';
