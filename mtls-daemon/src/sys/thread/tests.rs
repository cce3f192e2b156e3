//! Perl is the application: unlike most programs it says when a call gave EINTR.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::kill;

use super::*;
use crate::testing::eventually;

/// Reads once and says what came of it.
const READ: &str = r#"$| = 1; my $n = sysread(STDIN, my $b, 100); print defined $n ? "$n $b" : "error: $!""#;

fn perl(program: &str, stdin: OwnedFd) -> Child {
    let mut perl = Command::new("perl");
    perl.args(["-e", program]).stdin(Stdio::from(stdin)).stdout(Stdio::piped()).spawn().unwrap()
}

/// Ours, and the application's with a time limit for receiving, which makes Linux give EINTR to whoever is stopped.
fn sockets() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (near, far.into())
}

fn tid(child: &Child) -> i32 {
    child.id().cast_signed()
}

fn waits_in(child: &Child, call: &str) {
    let file = format!("/proc/{}/syscall", child.id());
    eventually(|| std::fs::read_to_string(&file).unwrap_or_default().starts_with(call));
}

fn field(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn said(mut child: Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

#[test]
fn a_mended_thread_notices_nothing_and_one_that_is_not_sees_eintr() {
    for mended in [true, false] {
        let (mut near, far) = sockets();
        let child = perl(READ, far);
        waits_in(&child, "0 0x0 ");
        let mut stopped = Stopped::stop(tid(&child), soon()).unwrap();
        assert_eq!(stopped.found(), Found::Left);
        assert!(field(child.id(), "State").starts_with('t'));
        if mended {
            assert!(stopped.mend().unwrap(), "it was cut off");
            assert!(!stopped.mend().unwrap(), "only once");
        }
        drop(stopped);
        near.write_all(b"hello").unwrap();
        let expected = if mended { "5 hello" } else { "error: Interrupted system call" };
        assert_eq!(said(child), expected);
    }
}

#[test]
fn a_thread_that_computes_needs_no_mend_and_goes_on() {
    let (near, far) = sockets();
    let mut child = perl("alarm 60; 1 while 1", far);
    waits_in(&child, "running");
    for _ in 0..20 {
        let mut stopped = Stopped::stop(tid(&child), soon()).unwrap();
        assert_eq!((stopped.found(), stopped.mend()), (Found::Left, Ok(false)));
        drop(stopped);
        eventually(|| field(child.id(), "State").starts_with('R'));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(near);
}

#[test]
fn a_halted_process_stays_halted_and_a_signal_on_its_way_arrives() {
    let (mut near, far) = sockets();
    let child = perl(&format!("$SIG{{USR1}} = sub {{ print 'signal, ' }}; {READ}"), far);
    waits_in(&child, "0 0x0 ");
    let pid = Pid::from_raw(tid(&child));
    kill(pid, Signal::SIGSTOP).unwrap();
    eventually(|| field(child.id(), "State").starts_with('T'));
    let mut stopped = Stopped::stop(tid(&child), soon()).unwrap();
    assert_eq!((stopped.found(), stopped.mend()), (Found::Halted, Ok(false)));
    drop(stopped);
    eventually(|| field(child.id(), "State").starts_with('T'));
    kill(pid, Signal::SIGUSR1).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    // The handler is Perl's business after the call, which its own signal interrupts.
    near.write_all(b"hello").unwrap();
    assert!(said(child).contains("signal, "));
}

#[test]
fn a_thread_that_does_not_leave_in_time_is_late_and_let_go_of() {
    let (near, far) = sockets();
    // vfork: the parent sleeps where no signal wakes it, until the child ends.
    let mut child = perl("if (syscall(58) == 0) { sysread(STDIN, my $b, 1) } syscall(231, 0)", far);
    waits_in(&child, "58 ");
    let thread = tid(&child);
    let stop = move || Stopped::stop(thread, Instant::now() + Duration::from_millis(30)).map(drop);
    let stopped = std::thread::spawn(stop).join().unwrap();
    assert_eq!(stopped.unwrap_err(), StopError::Late(thread));
    eventually(|| field(child.id(), "TracerPid") == "0");
    drop(near);
    assert!(child.wait().unwrap().success(), "it runs on to its end");
}

#[test]
fn what_another_traces_is_refused_and_what_is_over_is_gone() {
    let (near, far) = sockets();
    let child = perl(READ, far);
    waits_in(&child, "0 0x0 ");
    let mut held = Stopped::stop(tid(&child), soon()).unwrap();
    let thread = tid(&child);
    let other = std::thread::spawn(move || Stopped::stop(thread, soon()).map(drop)).join().unwrap();
    assert_eq!(other.unwrap_err(), StopError::Refused(thread));
    assert!(held.mend().unwrap());
    drop(held);
    drop(near);
    assert_eq!(said(child), "0 ");
    assert_eq!(Stopped::stop(thread, soon()).unwrap_err(), StopError::Gone(thread));
}

#[test]
fn a_thread_that_is_killed_while_it_is_stopped_is_gone() {
    let (_near, far) = sockets();
    let mut child = perl(READ, far);
    waits_in(&child, "0 0x0 ");
    let mut stopped = Stopped::stop(tid(&child), soon()).unwrap();
    child.kill().unwrap();
    eventually(|| stopped.mend() == Err(StopError::Gone(tid(&child))));
    drop(stopped);
    child.wait().unwrap();
}

#[test]
fn a_signal_waits_if_it_is_pending_caught_and_not_blocked() {
    let status = |own, shared, blocked, caught| {
        format!(
            "Name:\tx\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigCgt:\t{caught:016x}\n"
        )
    };
    assert!(waits(&status(2, 0, 0, 2)) && waits(&status(0, 2, 0, 2)));
    assert!(!waits(&status(2, 2, 2, 2)), "blocked");
    assert!(!waits(&status(2, 2, 0, 4)), "not caught");
    assert!(!waits(&status(0, 0, 0, 6)), "none");
    assert!(waits(""), "unknown: leave it");
}
