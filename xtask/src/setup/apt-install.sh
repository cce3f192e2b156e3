# Installs the Debian packages named as arguments without letting a packaged service start, now or at the next boot:
# the tests want nginx's or PostgreSQL's program, not another server on this machine's ports.
# MTLSD_SERVICES: the services that these packages bring.
# A shell script because the trap also fires when the person presses Ctrl-C.
set -eu
root=${MTLSD_ROOT:-} # another root directory, for the script's own test
policy=$root/usr/sbin/policy-rc.d
saved=$policy.saved-by-mtlsd
mark='# placed by cargo xtask while it installs packages'

restore() {
    if [ -e "$saved" ] || [ -L "$saved" ]; then
        mv -f "$saved" "$policy"
    elif grep -qsF "$mark" "$policy"; then
        rm -f "$policy"
    fi
}
restore # what a killed run left behind

verdict=0
[ ! -x "$policy" ] || "$policy" nginx start </dev/null >/dev/null 2>&1 || verdict=$?
if [ "$verdict" != 101 ]; then # 101: forbidden by policy, as in most container images
    trap restore EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if [ -e "$policy" ] || [ -L "$policy" ]; then mv -f "$policy" "$saved"; fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
    echo "service starts are forbidden ($policy) while packages are installed"
fi

export DEBIAN_FRONTEND=noninteractive
lists=$(find "$root/var/lib/apt/lists" -maxdepth 1 -name '*_Packages*' 2>/dev/null | head -n 1)
updated=no
if [ -z "$lists" ]; then
    apt-get update
    updated=yes
fi
install() {
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@"
}
if ! install "$@"; then
    [ "$updated" = no ] || exit 1
    echo "the package lists may be old: updating them and trying once more"
    apt-get update
    install "$@"
fi

if [ -n "${MTLSD_SERVICES:-}" ] && command -v systemctl >/dev/null; then
    for service in $MTLSD_SERVICES; do
        # Only units that exist; a machine without systemd running can still disable.
        if systemctl --no-reload disable "$service" >/dev/null 2>&1; then
            echo "service $service stays off (systemctl enable --now $service starts it)"
        fi
    done
fi
