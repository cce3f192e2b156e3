#!/bin/sh
# Makes one machine of the example: `vagrant up` runs this, and so do the tests under systemd (tests/src/booted.rs).
#   provision.sh server     nginx, enrolled strict; the client alone may ask it
#   provision.sh client     asks nginx all the time, enrolled
#   provision.sh stranger   asks nginx all the time, without mtlsd
# What was asked and answered is in /var/lib/example/ROLE.log.
set -eu
role=$1
server=${SERVER:-192.168.56.11} # where nginx is
package=${PACKAGE:-/package/mtlsd_*.deb}
ca=${CA:-/vagrant/ca}       # the site's CA, the same on every machine
daemon=${DAEMON:-mtlsd}     # the service; its directories have its name
word=${WORD:-hello}         # what the client says
page=${PAGE:-the page of nginx}

need() { # a program, and the package that has it
    command -v "$1" >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y "$2"
}

install_mtlsd() {
    # shellcheck disable=SC2086 # the name has a version in it
    command -v mtlsd >/dev/null || dpkg -i $package
    install -d -m 0700 "/var/lib/$daemon"
    cp -RT "$ca" "/var/lib/$daemon/ca"
    # A shared folder may have opened them to everybody, and mtlsd takes no keys that others can read.
    chmod -R go= "/var/lib/$daemon"
    install -d "/etc/$daemon"
    {
        echo "trust_domain: example.org"
        echo "paths: { runtime: /run/$daemon, state: /var/lib/$daemon, bpffs: /sys/fs/bpf/$daemon }"
        cat
    } >"/etc/$daemon/mtlsd.yaml"
    systemctl enable --now "$daemon.service"
}

enroll() { # a unit, and the workload's name
    mtlsd enroll "unit:$1" --name "$2" --mode strict --confirm-within off --socket "/run/$daemon/admin.sock"
    # From its first packet, also after a reboot.
    install -d "/etc/systemd/system/$1.d"
    cat >"/etc/systemd/system/$1.d/mtlsd.conf" <<END
[Unit]
After=$daemon.service
Wants=$daemon.service
[Service]
ExecStartPre=+/usr/bin/mtlsd wait-enrolled $2 --timeout 60s --socket /run/$daemon/admin.sock
END
    systemctl daemon-reload
}

asks() { # a role
    need curl curl
    install -d /var/lib/example
    cat >/etc/systemd/system/ask-$1.service <<END
[Unit]
Description=asks nginx all the time
[Service]
ExecStart=/bin/sh -c 'while :; do curl -s -m 5 -H "X-Word: $word" http://$server/ >>/var/lib/example/$1.log 2>&1; sleep 0.1; done'
[Install]
WantedBy=multi-user.target
END
    systemctl daemon-reload
}

case $role in
server)
    need nginx nginx-light
    # It began without mtlsd, which the package of nginx started.
    systemctl disable --now nginx.service
    echo "$page" >/var/www/html/index.html
    install_mtlsd <<END
policy:
  - { name: client-only, action: allow, to: { workloads: [nginx] }, from: { spiffe_ids: ["spiffe://example.org/client"] } }
END
    enroll nginx.service nginx
    systemctl enable --now nginx.service
    ;;
client)
    install_mtlsd <<END
directory:
  - { name: nginx, addresses: [$server], ports: [80], spiffe_ids: ["spiffe://example.org/nginx"] }
END
    asks client
    enroll ask-client.service client
    systemctl enable --now ask-client.service
    ;;
stranger)
    word=stranger
    asks stranger
    systemctl enable --now ask-stranger.service
    ;;
*)
    echo "provision.sh: $role is none of server, client, stranger" >&2
    exit 2
    ;;
esac
