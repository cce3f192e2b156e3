# The guest's second program, on the host's files: what a booted system has, then the command, then its verdict.
# Its own output is the console; the command's goes through ports of its own.
here=/run/mtlsd-vm
b=$here/busybox
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
. $here/settings.sh

port() { # the device of the port of this name
    for dir in /sys/class/virtio-ports/*; do
        if [ "$(cat "$dir/name")" = "$1" ]; then
            echo "/dev/${dir##*/}"
            return
        fi
    done
    echo "mtlsd-vm: there is no port $1" >&2
}
exec 3>"$(port mtlsd.control)"
problem() { # goes to the console, and to whoever reads the control port
    echo "mtlsd-vm: $1"
    echo "problem $1" >&3
}
must() { "$@" || problem "failed: $*"; }

must mount -t cgroup2 cgroup2 /sys/fs/cgroup
must mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /dev/pts /dev/shm
must mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
must mount -t tmpfs -o mode=1777 shm /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mkdir -p /run/lock /lib/modules
must mount --bind "$modules" /lib/modules
mkdir $here/tmp
must mount --bind /tmp $here/tmp
must mount -t tmpfs -o mode=1777 tmp /tmp
for name in $tmp; do
    if [ -d "$here/tmp/$name" ]; then
        mkdir "/tmp/$name"
        must mount --bind "$here/tmp/$name" "/tmp/$name"
    elif [ -f "$here/tmp/$name" ]; then
        $b cp -a "$here/tmp/$name" "/tmp/$name"
    fi
done
if [ -n "$out" ]; then
    mkdir -p "$out"
    must mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=none,access=client out "$out"
fi
must ip link set lo up
echo mtlsd-vm >/proc/sys/kernel/hostname
# As systemd sets them.
ulimit -Hn 524288
ulimit -Sn 1024

# A change of the time, even to itself, copies a file up from the host's to the memory over it.
$b xargs $b touch -c <$here/hot

# Here and now: the first use of each would load it while a test's clock runs. What a kernel lacks or has built in is
# no problem here; the tests see what is missing.
for module in tls veth bridge dummy inet_diag tcp_diag af_packet sch_netem \
    cryptd aesni_intel ghash_clmulni_intel gcm ccm chacha_x86_64 poly1305_x86_64 chacha20poly1305; do
    modprobe --quiet --use-blacklist $module || echo "mtlsd-vm: no module $module"
done

mkfifo $here/out $here/err
$b cat <$here/out >"$(port mtlsd.out)" &
out_pid=$!
$b cat <$here/err >"$(port mtlsd.err)" &
err_pid=$!
echo ready >&3
setsid sh $here/command.sh </dev/null >$here/out 2>$here/err 3>&- &
wait $!
code=$?
# What the command left running may hold its output open.
(sleep 3; kill $out_pid $err_pid) 2>/dev/null &
wait $out_pid
wait $err_pid
echo "verdict $code" >&3
exec 3>&-
exec $b poweroff -f
