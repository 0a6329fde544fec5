PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO schema_version VALUES(1);
CREATE TABLE offersets (
	uuid CHAR(32) NOT NULL, 
	client VARCHAR NOT NULL, 
	created BIGINT NOT NULL, 
	request TEXT NOT NULL, 
	program TEXT, 
	reasons TEXT NOT NULL, 
	PRIMARY KEY (uuid)
);
INSERT INTO offersets VALUES('25500202cffb4227bb4b6e0c2efba3fc','voter',1795510800000000,'{"executable": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/executable/docker-container.yaml", "meta": {"name": "caesar-job"}, "image": {"locations": ["caesar/aegean-job:2.3.5"]}, "command": ["--run"], "environment": {"JOB_OUTDIR": "/output"}}, "compute": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/compute/simple-compute-resource.yaml", "cores": {"min": 2}, "memory": {"min": 4}}}','{"image": {"name": "caesar/aegean-job:2.3.5", "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "kubernetes": "docker.io/caesar/aegean-job:2.3.5", "slurm": "/images/a.sqfs"}, "entrypoint": null, "command": ["--run", "gr\u00fcn"], "environment": {"JOB_OUTDIR": "/output"}, "mounts": []}','[]');
INSERT INTO offersets VALUES('0332e15adc70413cb37498e84feff9d1','voter',1795510800000000,'{"executable": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/executable/docker-container.yaml", "meta": {"name": "caesar-job"}, "image": {"locations": ["caesar/aegean-job:2.3.5"]}, "command": ["--run"], "environment": {"JOB_OUTDIR": "/output"}}, "compute": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/compute/simple-compute-resource.yaml", "cores": {"min": 2}, "memory": {"min": 4}}}','{"image": {"name": "caesar/aegean-job:2.3.5", "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "kubernetes": "docker.io/caesar/aegean-job:2.3.5", "slurm": "/images/a.sqfs"}, "entrypoint": null, "command": ["--run", "gr\u00fcn"], "environment": {"JOB_OUTDIR": "/output"}, "mounts": []}','[]');
INSERT INTO offersets VALUES('3ac851fecc854c45abbd4c7eb80d549d','voter',1795510800000000,'{"executable": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/executable/docker-container.yaml", "meta": {"name": "caesar-job"}, "image": {"locations": ["caesar/aegean-job:2.3.5"]}, "command": ["--run"], "environment": {"JOB_OUTDIR": "/output"}}, "compute": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/compute/simple-compute-resource.yaml", "cores": {"min": 2}, "memory": {"min": 4}}}','{"image": {"name": "caesar/aegean-job:2.3.5", "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "kubernetes": "docker.io/caesar/aegean-job:2.3.5", "slurm": "/images/a.sqfs"}, "entrypoint": null, "command": ["--run", "gr\u00fcn"], "environment": {"JOB_OUTDIR": "/output"}, "mounts": []}','[]');
INSERT INTO offersets VALUES('567674e3a3d24bb6817e3eec6e0a9ceb','voter',1795510800000000,'{"executable": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/executable/docker-container.yaml", "meta": {"name": "caesar-job"}, "image": {"locations": ["caesar/aegean-job:2.3.5"]}, "command": ["--run"], "environment": {"JOB_OUTDIR": "/output"}}, "compute": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/compute/simple-compute-resource.yaml", "cores": {"min": 2}, "memory": {"min": 4}}}','{"image": {"name": "caesar/aegean-job:2.3.5", "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "kubernetes": "docker.io/caesar/aegean-job:2.3.5", "slurm": "/images/a.sqfs"}, "entrypoint": null, "command": ["--run", "gr\u00fcn"], "environment": {"JOB_OUTDIR": "/output"}, "mounts": []}','[]');
INSERT INTO offersets VALUES('3f4b1b494698467699ea37e256a511a0','voter',1795510800000000,'{"executable": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/executable/docker-container.yaml", "meta": {"name": "caesar-job"}, "image": {"locations": ["caesar/aegean-job:2.3.5"]}, "command": ["--run"], "environment": {"JOB_OUTDIR": "/output"}}, "compute": {"kind": "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/compute/simple-compute-resource.yaml", "cores": {"min": 2}, "memory": {"min": 4}}}','{"image": {"name": "caesar/aegean-job:2.3.5", "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "kubernetes": "docker.io/caesar/aegean-job:2.3.5", "slurm": "/images/a.sqfs"}, "entrypoint": null, "command": ["--run", "gr\u00fcn"], "environment": {"JOB_OUTDIR": "/output"}, "mounts": []}','[{"kind": "urn:caesar:planner:cores-limit", "template": "${platform}: ${asked} asked", "values": {"platform": "slurm-account-001", "asked": "5"}}]');
CREATE TABLE sessions (
	uuid CHAR(32) NOT NULL, 
	offerset CHAR(32) NOT NULL, 
	name VARCHAR NOT NULL, 
	phase VARCHAR NOT NULL, 
	created BIGINT NOT NULL, 
	modified BIGINT NOT NULL, 
	expires BIGINT NOT NULL, 
	start_from BIGINT NOT NULL, 
	start_until BIGINT NOT NULL, 
	duration BIGINT NOT NULL, 
	cores INTEGER NOT NULL, 
	memory_gib INTEGER NOT NULL, 
	disc_gb INTEGER NOT NULL, 
	reserved_from BIGINT NOT NULL, 
	reserved_until BIGINT NOT NULL, 
	costs TEXT NOT NULL, 
	metrics TEXT NOT NULL, 
	job_id VARCHAR, 
	outcome VARCHAR, 
	submitted BIGINT, 
	started BIGINT, 
	ended BIGINT, 
	PRIMARY KEY (uuid), 
	FOREIGN KEY(offerset) REFERENCES offersets (uuid)
);
INSERT INTO sessions VALUES('852a77405e8841ed8364eaf9cd8c76c3','25500202cffb4227bb4b6e0c2efba3fc','offer-0','REJECTED',1795510800000000,1795510802000000,1795510860000000,1795510805000000,1795510865000000,3600000000,2,4,11,1795510800000000,1795514470000000,'{"monetary": 0.02}','{"compute-performance": 90.0}',NULL,NULL,NULL,NULL,NULL);
INSERT INTO sessions VALUES('067c6424b37843dbbde6136b1dc85e8f','25500202cffb4227bb4b6e0c2efba3fc','offer-1','ACCEPTED',1795510800000000,1795510802000000,1795510860000000,1795510807000000,1795510807000000,3600000000,4,4,11,1795510802000000,1795514412000000,'{"monetary": 0.04}','{"compute-performance": 90.0}',NULL,NULL,NULL,NULL,NULL);
INSERT INTO sessions VALUES('6874d9f5d92043618f61c771431f4c45','0332e15adc70413cb37498e84feff9d1','offer-0','AVAILABLE',1795510800000000,1795510862000000,1795510860000000,1795510807000000,1795510807000000,3600000000,1,4,11,1795510802000000,1795514412000000,'{"monetary": 0.01}','{"compute-performance": 90.0}','42',NULL,1795510802000000,1795510802000000,NULL);
INSERT INTO sessions VALUES('21542e03912a4b1e8eb7d121897b4cc6','3ac851fecc854c45abbd4c7eb80d549d','offer-0','FAILED',1795510800000000,1795510802000000,1795510860000000,1795510807000000,1795510807000000,3600000000,1,4,11,1795510802000000,1795514412000000,'{"monetary": 0.01}','{"compute-performance": 90.0}','43','FAILED',NULL,NULL,1795512602000000);
INSERT INTO sessions VALUES('d31a77837db04d30bcc341155b1de461','567674e3a3d24bb6817e3eec6e0a9ceb','offer-0','OFFERED',1795510800000000,1795510800000000,1795510860000000,1795510805000000,1795510865000000,3600000000,3,4,11,1795510800000000,1795514470000000,'{"monetary": 0.03}','{"compute-performance": 90.0}',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	session CHAR(32) NOT NULL, 
	time BIGINT NOT NULL, 
	phase VARCHAR NOT NULL, 
	level VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	template TEXT NOT NULL, 
	"values" TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(session) REFERENCES sessions (uuid)
);
INSERT INTO events VALUES(1,'067c6424b37843dbbde6136b1dc85e8f',1795510802000000,'ACCEPTED','INFO','urn:caesar:planner:accepted','${client} accepted it','{"client": "voter"}');
INSERT INTO events VALUES(2,'852a77405e8841ed8364eaf9cd8c76c3',1795510802000000,'REJECTED','INFO','urn:caesar:planner:sibling-accepted','${session} of the same set was accepted','{"session": "067c6424-b378-43db-bde6-136b1dc85e8f"}');
INSERT INTO events VALUES(3,'6874d9f5d92043618f61c771431f4c45',1795510802000000,'ACCEPTED','INFO','urn:caesar:planner:accepted','${client} accepted it','{"client": "voter"}');
INSERT INTO events VALUES(4,'6874d9f5d92043618f61c771431f4c45',1795510802000000,'PREPARING','INFO','urn:caesar:planner:preparing','the job is being submitted','{}');
INSERT INTO events VALUES(5,'6874d9f5d92043618f61c771431f4c45',1795510802000000,'PREPARING','INFO','urn:caesar:planner:submitted','the platform calls the job ${job}','{"job": "42"}');
INSERT INTO events VALUES(6,'6874d9f5d92043618f61c771431f4c45',1795510862000000,'AVAILABLE','INFO','urn:caesar:planner:running','the job runs','{}');
INSERT INTO events VALUES(7,'21542e03912a4b1e8eb7d121897b4cc6',1795510802000000,'ACCEPTED','INFO','urn:caesar:planner:accepted','${client} accepted it','{"client": "voter"}');
INSERT INTO events VALUES(8,'21542e03912a4b1e8eb7d121897b4cc6',1795510802000000,'RELEASING','ERROR','urn:x','x','{}');
INSERT INTO events VALUES(9,'21542e03912a4b1e8eb7d121897b4cc6',1795510802000000,'FAILED','ERROR','urn:x','x','{}');
CREATE INDEX ix_sessions_offerset ON sessions (offerset);
CREATE INDEX ix_sessions_live ON sessions (phase) WHERE phase IN ('OFFERED', 'ACCEPTED', 'WAITING', 'PREPARING', 'AVAILABLE', 'RELEASING');
CREATE INDEX ix_events_session ON events (session);
COMMIT;
