use std::path::PathBuf;

use super::*;
use crate::capture::pins::Pins;
use crate::capture::programs::{self, EbpfLog};

#[test]
fn the_two_entries_of_an_expected_connection_differ_by_the_namespace_alone() {
    let client = "10.0.0.2:4000".parse().unwrap();
    let server = "10.0.0.3:80".parse().unwrap();
    let of = Inbound { netns: 7, client, server };
    assert_eq!((of.key().netns, of.anywhere().netns), (7, 0));
    assert_eq!(of.key(), DeliveryKey { netns: 7, ..of.anywhere() });
    assert_eq!((socket_address(&of.key().from), socket_address(&of.key().to)), (client, server));
}

fn socket() -> DirectSocket {
    DirectSocket {
        netns: 7,
        workload: 3,
        destination: 0,
        role: Role::Server as u32,
        phase: Phase::Held as u32,
        session: 0,
        local: endpoint("10.0.0.3:80".parse().unwrap()),
        remote: endpoint("10.0.0.2:4000".parse().unwrap()),
    }
}

#[test]
fn a_live_connection_is_read_and_a_role_or_phase_from_elsewhere_is_not_guessed() {
    let socket = socket();
    let live = Live::read(9, &socket).unwrap();
    assert_eq!((live.cookie, live.role, live.destination), (9, Role::Server, None));
    assert_eq!((live.netns, live.workload, live.phase), (7, 3, Phase::Held));
    assert_eq!(live.local, "10.0.0.3:80".parse().unwrap());
    assert_eq!(live.remote, "10.0.0.2:4000".parse().unwrap());
    let released = DirectSocket { phase: Phase::Released as u32, destination: 5, ..socket };
    let live = Live::read(9, &released).unwrap();
    assert_eq!((live.phase, live.destination), (Phase::Released, Some(5)));
    assert_eq!(Live::read(9, &DirectSocket { role: 0, ..socket }), None);
    for phase in [0, 3, u32::MAX] {
        assert_eq!(Live::read(9, &DirectSocket { phase, ..socket }), None);
    }
}

#[test]
fn the_clock_of_the_programs_goes_on() {
    let first = boot_time().unwrap();
    assert!(first > 0 && boot_time().unwrap() >= first);
}

#[test]
fn what_is_let_go_is_noted_unless_the_kernel_has_forgotten_the_socket() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes real eBPF tables: run it as root, as `cargo xtask test` does"
    );
    let directory = PathBuf::from(format!("/sys/fs/bpf/mtlsd-test-note-{}", std::process::id()));
    let pins = Pins::create(&directory).expect("bpffs at /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)");
    let tables = Tables::open(&mut programs::load_cgroup_programs(&pins, EbpfLog::Off).unwrap().0);
    let removed = Pins::remove_all(&directory);
    let tables = tables.unwrap();
    removed.unwrap();

    lock(&tables.sockets).insert(9, socket(), 0).unwrap();
    assert_eq!(tables.live().iter().map(|live| live.phase).collect::<Vec<_>>(), [Phase::Held]);
    tables.note_released(9, 5).unwrap();
    tables.note_released(9, 5).unwrap();
    let noted = Live { phase: Phase::Released, session: 5, ..Live::read(9, &socket()).unwrap() };
    assert_eq!(tables.live(), [noted], "nothing else has changed");
    lock(&tables.sockets).remove(&9).unwrap();
    let gone = tables.note_released(9, 5).unwrap_err();
    assert!(matches!(gone, ReleaseNoteError::Gone(9)), "{gone}");
    assert!(tables.live().is_empty(), "it has not come back");
}
