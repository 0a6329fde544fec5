#!/bin/sh
# Run by mmdebstrap on the controller when all packages are in; $1 is the machine's root directory.
set -eu

# What a machine has of its own comes from the controller (host keys) or from podman (names, name servers).
rm -f "$1"/etc/ssh/ssh_host_*_key* "$1/etc/resolv.conf" "$1/etc/hostname"

chroot "$1" update-ca-certificates >/dev/null

install -d -m 0700 "$1/root/.ssh"
cat >"$1/etc/ssh/sshd_config.d/10-testbed.conf" <<'END'
# Only the key that the controller made, and no reverse look-ups: every Ansible task is a session.
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
PrintLastLog no
MaxSessions 64
MaxStartups 64
END

# Packages stay in the cache that the controller shares with the machine: a rebuilt one downloads nothing twice.
cat >"$1/etc/apt/apt.conf.d/80testbed" <<'END'
APT::Keep-Downloaded-Packages "true";
Binary::apt::APT::Keep-Downloaded-Packages "true";
Acquire::Retries "3";
END

# podman puts the journal on a tmpfs: it takes memory.
install -d "$1/etc/systemd/journald.conf.d"
cat >"$1/etc/systemd/journald.conf.d/10-testbed.conf" <<'END'
[Journal]
SystemMaxUse=48M
RuntimeMaxUse=48M
END

echo 'LANG=C.UTF-8' >"$1/etc/default/locale"

# Manuals are left out, but some packages expect the directories.
for section in 1 2 3 4 5 6 7 8; do
  install -d "$1/usr/share/man/man$section"
done

# These make sense on real hardware only, or would run apt behind Ansible's back.
chroot "$1" systemctl mask --quiet getty.target console-getty.service systemd-logind.service \
  systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  fstrim.timer
chroot "$1" systemctl set-default --quiet multi-user.target

echo 'made by roles/local_machines' >"$1/etc/caesar-machine"
