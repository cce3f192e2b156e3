//! What goes with plain TCP only is counted (docs/direct.md).

use mtls_tests::direct::{HTTP, World, direct_records};
use mtls_tests::hold::why_not_direct;
use mtls_tests::{could_not_run, eventually, slow};

/// Gets `/` by hand; with a second argument it does all that is counted.
const PROGRAM: &str = r#"
import fcntl, socket, struct, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.sendall(b"GET / HTTP/1.0\r\n\r\n")
if len(sys.argv) > 3:
    s.setsockopt(socket.SOL_SOCKET, 60, 1)
    s.setsockopt(socket.IPPROTO_TCP, 36, 1)
    fcntl.ioctl(s, 0x541B, struct.pack("i", 0))
    fcntl.ioctl(s, 0x5411, struct.pack("i", 0))
    s.setsockopt(socket.IPPROTO_TCP, 19, 0)
print(b"".join(iter(lambda: s.recv(4096), b"")).decode())
"#;

const COUNTERS: [&str; 3] = ["direct_zerocopy", "direct_bytes_asked", "direct_repair"];

fn counted(world: &World) -> [f64; 3] {
    COUNTERS.map(|event| world.here.metric("mtlsd_ebpf_events_total", &[("event", event)]))
}

#[test]
fn what_does_not_go_with_a_tls_socket_is_counted() {
    if let Some(why) = why_not_direct() {
        return could_not_run(what_does_not_go_with_a_tls_socket_is_counted, why);
    }
    let world = World::with_session();
    let to = world.far().at(HTTP);
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let run = |more: &[&str]| {
        let words = [&["-c", PROGRAM, host.as_str(), port.as_str()][..], more].concat();
        let got = world.web().cmd("python3").args(words).limit(slow::limit(60)).run().ok().text();
        assert!(got.contains("hello from far"), "{got}");
    };
    run(&[]);
    direct_records(&world.here, "web", 1);
    assert_eq!(counted(&world), [0.0; 3], "a program that does nothing of it");
    run(&["all"]);
    direct_records(&world.here, "web", 2);
    eventually(slow::limit(20), "the counters", || (counted(&world) == [1.0, 2.0, 1.0]).then_some(()));
    // On other sockets it is nobody's business.
    let listen = "import socket, fcntl, struct\na, b = socket.socketpair(socket.AF_UNIX)\nl = socket.create_server(('127.0.0.1', 0))\nc = socket.create_connection(l.getsockname())\nc.setsockopt(socket.SOL_SOCKET, 60, 1)\nfcntl.ioctl(c, 0x541B, struct.pack('i', 0))\nprint('done')";
    assert_eq!(world.web().cmd("python3").args(["-c", listen]).run().ok().text(), "done");
    assert_eq!(counted(&world), [1.0, 2.0, 1.0]);
}
