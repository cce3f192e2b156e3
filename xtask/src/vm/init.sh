#!/bin/busybox sh
# The guest's first program: reaches the host's files, lays a memory or a disk over them, and goes on there.
b=/bin/busybox
die() {
    $b echo "mtlsd-vm: $1"
    $b poweroff -f
}
. /settings.sh
$b mount -t devtmpfs dev /dev || die "no devtmpfs"
for module in /modules/*.ko; do
    [ -e "$module" ] || continue
    $b insmod "$module" || $b echo "mtlsd-vm: $module cannot be loaded"
done
# `loose`: the guest is alone with a tree that nobody changes under it, and reads it once.
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /lower || die "no files of the host"
if [ "$disk" = yes ]; then
    $b mount -t ext4 /dev/vda /upper || die "no disk"
else
    $b mount -t tmpfs -o size=80%,mode=755 upper /upper || die "no tmpfs"
fi
$b mkdir -p /upper/data /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /new || die "no overlay"
$b mount --move /dev /new/dev || die "/dev is missing on the host"
$b mount -t proc proc /new/proc || die "/proc is missing on the host"
$b mount -t sysfs sysfs /new/sys || die "/sys is missing on the host"
$b mount -t tmpfs -o mode=755 run /new/run || die "/run is missing on the host"
$b mkdir /new/run/mtlsd-vm
$b cp /guest.sh /systemd.sh /settings.sh /command.sh /hot /new/run/mtlsd-vm/
$b cp /bin/busybox /new/run/mtlsd-vm/busybox
exec $b switch_root /new /bin/sh "/run/mtlsd-vm/$next"
die "the host's files have no /bin/sh"
