# The guest's second program, on the host's files, where systemd is to be the first one: what it cannot know, then systemd. The
# command is a service of its; the verdict comes when everything has been stopped and written.
here=/run/mtlsd-vm
units=/run/systemd/system
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
. $here/settings.sh

mkdir -p $units /lib/modules
mount --bind "$modules" /lib/modules
mkdir $here/tmp
mount --bind /tmp $here/tmp
# Or systemd would clear the host's away, file by file.
mount -t tmpfs -o mode=1777 tmp /tmp
if [ -n "$out" ]; then
    mkdir -p "$out"
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=none,access=client out "$out"
fi

# At the first boot from a disk: what the host has switched on is not this guest's.
if [ ! -e /etc/mtlsd-vm ]; then
    rm -rf /etc/systemd/system/*.wants /etc/fstab
    # Or a package with a page would have every page of the host read for its index.
    rm -f /var/lib/man-db/auto-update
    # Where the host is an image: systemd would take the guest for a container, and packages would start no service.
    rm -f /.dockerenv /usr/sbin/policy-rc.d
    echo mtlsd-vm >/etc/hostname
    touch /etc/mtlsd-vm
fi
# What takes long and shows nothing here.
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-timesyncd.service systemd-logind.service systemd-binfmt.service systemd-firstboot.service \
    systemd-update-utmp.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-hwdb-update.service \
    systemd-modules-load.service systemd-random-seed.service dev-hugepages.mount apt-daily.timer getty.target; do
    ln -sf /dev/null "$units/$unit"
done

cat >$units/mtlsd-vm.service <<END
[Unit]
Description=the guest's job
After=multi-user.target
[Service]
ExecStart=/bin/sh $here/job.sh
LimitNOFILE=524288
TimeoutStopSec=10
[Install]
WantedBy=mtlsd-vm.target
END
printf '[Unit]\nRequires=multi-user.target mtlsd-vm.service\nAfter=multi-user.target\n' >$units/mtlsd-vm.target

cat >$here/job.sh <<'END'
port() { # the device of the port of this name
    for dir in /sys/class/virtio-ports/*; do
        [ "$(cat "$dir/name")" != "$1" ] || echo "/dev/${dir##*/}"
    done
}
for name in $(. /run/mtlsd-vm/settings.sh && echo "$tmp"); do
    [ ! -e "/run/mtlsd-vm/tmp/$name" ] || [ -e "/tmp/$name" ] || cp -a "/run/mtlsd-vm/tmp/$name" "/tmp/$name"
done
port mtlsd.control >/run/mtlsd-vm/control
echo ready >"$(cat /run/mtlsd-vm/control)"
sh /run/mtlsd-vm/command.sh </dev/null >"$(port mtlsd.out)" 2>"$(port mtlsd.err)"
echo $? >/run/mtlsd-vm/code
systemctl poweroff
END
# Run by systemd as the last thing, when nothing is left to be stopped.
cat >/usr/lib/systemd/system-shutdown/mtlsd-vm <<'END'
#!/bin/sh
sync
echo "verdict $(cat /run/mtlsd-vm/code)" >"$(cat /run/mtlsd-vm/control)"
END
chmod +x /usr/lib/systemd/system-shutdown/mtlsd-vm
exec /lib/systemd/systemd --unit=mtlsd-vm.target --log-target=kmsg --log-level=notice --show-status=false
