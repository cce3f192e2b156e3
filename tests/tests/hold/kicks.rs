//! The kick: what a thread notices of it. Needs no kTLS, except where it says so.

use std::sync::mpsc;
use std::thread;

use mtls_tests::hold::{Kick, Outcome, Taken, Ticket, World, kick, release};
use mtls_tests::{eventually, slow};
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{EPOLL, FUTEX, POLL, RECV, SELECT, SEND, SLEEP, ktls};

/// A wait: what the client is told, the calls it then is in, and what it answers once all is released and "hello" came.
type Wait = (&'static str, &'static [i64], &'static str);

/// Those that Linux itself makes again.
const RESTARTED: &[Wait] = &[
    ("recv x", RECV, "5 hello"),
    ("send x hello", SEND, "5"),
    ("poll x out 60000", POLL, "1 out"),
    ("select x out 60000", SELECT, "1"),
    ("sleep 3000", SLEEP, "ok"),
    ("futex 3000", FUTEX, "ETIMEDOUT"),
];

/// Those that give EINTR to whoever is stopped, signal or not. The socket `t` has SO_RCVTIMEO and SO_SNDTIMEO.
const INTERRUPTED: &[Wait] = &[
    ("recv t", RECV, "5 hello"),
    ("send t hello", SEND, "5"),
    ("epoll x level out 60000", EPOLL, "1"),
    ("epoll x edge out 60000", EPOLL, "1"),
];

/// The client waits in each, in a thread of its own.
fn waiting(waits: &[Wait]) -> (World, Vec<Ticket>) {
    let world = World::held();
    for x in ["x", "t"] {
        world.connect(x);
    }
    world.client.does("main", "timeouts t 60000", "ok");
    let waits = waits.iter().enumerate();
    let tickets =
        waits.map(|(n, (wait, calls, _))| world.client.blocks(&format!("t{n}"), wait, calls)).collect();
    (world, tickets)
}

/// They still wait; all is released, the server says hello, and they answer what they should.
#[track_caller]
fn come_to_their_end(world: &World, tickets: &[Ticket], waits: &[Wait]) {
    for (ticket, (_, calls, _)) in tickets.iter().zip(waits) {
        world.client.waits_in(ticket, calls);
    }
    for x in ["x", "t"] {
        world.release(x);
        world.server.does("main", &format!("send {x} hello"), "5");
    }
    for (ticket, (wait, _, answer)) in tickets.iter().zip(waits) {
        assert_eq!(world.client.answer(ticket), *answer, "{wait}");
    }
}

/// What the kick found a thread doing.
#[track_caller]
fn outcome(world: &World, kicked: &[Kick], thread: &str) -> Outcome {
    let tid = world.client.tid(thread);
    kicked.iter().find(|kick| kick.tid == tid).expect("every thread is kicked").outcome
}

#[test]
fn the_kick_is_invisible_to_calls_that_the_kernel_restarts() {
    let (world, tickets) = waiting(RESTARTED);
    let kicked = kick(world.client.pid(), false).unwrap();
    for (number, (wait, ..)) in RESTARTED.iter().enumerate() {
        let found = outcome(&world, &kicked, &format!("t{number}"));
        // ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK.
        assert!(matches!(found, Outcome::Returned(-516..=-512)), "{wait}: {found:?}");
        println!("{wait}: {found:?}");
    }
    come_to_their_end(&world, &tickets, RESTARTED);
}

#[test]
fn without_the_mend_the_kick_shows_as_eintr_where_a_timeout_is_set_and_in_epoll_wait() {
    let (world, tickets) = waiting(INTERRUPTED);
    let kicked = kick(world.client.pid(), false).unwrap();
    for (number, ticket) in tickets.iter().enumerate() {
        let found = outcome(&world, &kicked, &format!("t{number}"));
        assert_eq!(found, Outcome::Returned(-i64::from(libc::EINTR)), "{:?}", INTERRUPTED[number]);
        assert_eq!(world.client.answer(ticket), "EINTR", "{:?}", INTERRUPTED[number]);
    }
}

#[test]
fn mended_the_kick_is_invisible_to_all_of_them() {
    for waits in [RESTARTED, INTERRUPTED] {
        let (world, tickets) = waiting(waits);
        for _ in 0..5 {
            for (ticket, (_, calls, _)) in tickets.iter().zip(waits) {
                world.client.waits_in(ticket, calls);
            }
            kick(world.client.pid(), true).unwrap();
        }
        come_to_their_end(&world, &tickets, waits);
    }
}

#[test]
fn the_mend_is_used_for_those_calls_only() {
    let (world, tickets) = waiting(INTERRUPTED);
    let kicked = kick(world.client.pid(), true).unwrap();
    for number in 0..tickets.len() {
        assert_eq!(outcome(&world, &kicked, &format!("t{number}")), Outcome::Mended);
    }
    let (world, tickets) = waiting(RESTARTED);
    let kicked = kick(world.client.pid(), true).unwrap();
    for number in 0..tickets.len() {
        assert_ne!(outcome(&world, &kicked, &format!("t{number}")), Outcome::Mended);
    }
}

#[test]
fn a_thread_that_runs_is_kicked_and_goes_on() {
    let world = World::held();
    let spin = world.client.tell("a", "spin 3000");
    eventually(slow::limit(20), "a running thread", || {
        let tid = world.client.tid("a");
        let file = format!("/proc/{}/task/{tid}/syscall", world.client.pid());
        (std::fs::read_to_string(file).ok()?.trim() == "running").then_some(())
    });
    let kicked = kick(world.client.pid(), true).unwrap();
    assert_eq!(outcome(&world, &kicked, "a"), Outcome::User);
    assert_eq!(world.client.answer(&spin), "ok");
}

#[test]
fn the_call_and_its_descriptor_can_be_read_from_proc() {
    let world = World::held();
    world.connect("x");
    let fd: u64 = world.client.ask("fd", "fd x").parse().unwrap();
    world.client.blocks("r", "recv x", RECV);
    world.client.blocks("s", "send x hello", SEND);
    world.client.blocks("e", "epoll x level out 60000", EPOLL);
    for (thread, number) in [("r", libc::SYS_recvfrom), ("s", libc::SYS_sendto)] {
        let call = world.client.call(thread);
        assert_eq!(call[..2], [number.cast_unsigned(), fd], "{thread}");
    }
    let epoll = world.client.call("e")[1];
    let link = std::fs::read_link(format!("/proc/{}/fd/{epoll}", world.client.pid())).unwrap();
    assert_eq!(link.to_str(), Some("anon_inode:[eventpoll]"));
}

#[test]
fn a_process_that_is_stopped_stays_stopped_and_has_left_its_call() {
    let world = World::held();
    world.connect("x");
    let sent = world.client.blocks("a", "send x hello", SEND);
    world.client.signal(Signal::SIGSTOP);
    let state = || {
        let tid = world.client.tid("a");
        let file = format!("/proc/{}/task/{tid}/status", world.client.pid());
        std::fs::read_to_string(file).unwrap_or_default().lines().any(|line| line == "State:\tT (stopped)")
    };
    eventually(slow::limit(20), "the stop", || state().then_some(()));
    let kicked = kick(world.client.pid(), true).unwrap();
    assert_eq!(outcome(&world, &kicked, "a"), Outcome::Stopped);
    eventually(slow::limit(20), "it to be stopped again", || state().then_some(()));
    world.client.signal(Signal::SIGCONT);
    world.client.waits_in(&sent, SEND);
    world.release("x");
    assert_eq!(world.client.answer(&sent), "5");
}

#[test]
fn a_stopped_process_needs_no_kick() {
    if !ktls(a_stopped_process_needs_no_kick) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    world.connect("x");
    let ends = world.take("x");
    let sent = world.client.blocks("a", "send x hello", SEND);
    let read = world.client.blocks("b", "recv x", RECV);
    world.client.signal(Signal::SIGSTOP);
    for thread in ["a", "b"] {
        let file = format!("/proc/{}/task/{}/status", world.client.pid(), world.client.tid(thread));
        eventually(slow::limit(20), "the stop", || {
            std::fs::read_to_string(&file).ok()?.contains("T (stopped)").then_some(())
        });
    }
    world.keys(&ends);
    World::let_go(&ends);
    world.server.does("a", "send x secret", "6");
    world.client.signal(Signal::SIGCONT);
    assert_eq!([world.client.answer(&sent), world.client.answer(&read)], ["5", "6 secret"]);
    world.server.does("a", "recv x", "5 hello");
    capture.stop().assert_only_tls(mtls_tests::hold::world::PORT);
}

#[test]
fn a_traced_thread_cannot_be_kicked_but_its_descriptor_can_be_taken() {
    let world = World::held();
    world.connect("x");
    let fd = world.client.ask("fd", "fd x").parse().unwrap();
    world.client.blocks("a", "send x hello", SEND);
    let thread = Pid::from_raw(world.client.tid("a"));
    let pid = world.client.pid();
    // A debugger is another task than ours; when it ends, it lets go.
    let (attached, end) = (mpsc::channel(), mpsc::channel::<()>());
    let debugger = thread::spawn(move || {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        attached.0.send(()).unwrap();
        let _ = end.1.recv();
    });
    attached.1.recv().unwrap();
    let kicked = kick(pid, true).unwrap();
    release(Taken::new(pid, fd).unwrap()).unwrap();
    drop(end.0);
    debugger.join().unwrap();
    assert_eq!(outcome(&world, &kicked, "a"), Outcome::Refused);
    assert_eq!(kicked.iter().filter(|kick| kick.outcome == Outcome::Refused).count(), 1, "{kicked:?}");
}
