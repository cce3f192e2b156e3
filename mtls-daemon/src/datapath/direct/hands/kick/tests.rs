use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::unistd::Pid;
use socket2::SockRef;

use super::*;
use crate::capture::cgroup::mount_point;
use crate::testing::eventually;

const PATIENCE: Duration = Duration::from_secs(20);
/// Reads once and says what came of it.
const READ: &str = "$| = 1; my $n = sysread(STDIN, my $b, 100); print defined $n ? qq($n $b\\n) : qq($!\\n)";

/// Ours, the application, and its socket's cookie. Receiving has a time limit there: a stop would show as EINTR.
fn application(program: &str) -> (TcpStream, Child, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let cookie = SockRef::from(&far).cookie().unwrap();
    let mut perl = Command::new("perl");
    perl.args(["-e", program]).stdin(Stdio::from(OwnedFd::from(far))).stdout(Stdio::piped());
    (near, perl.spawn().unwrap(), cookie)
}

fn take(child: &Child, cookie: u64) -> Taken {
    Taken::take(child.id(), 0, cookie, &mount_point().unwrap()).unwrap()
}

/// Until the process sleeps in this system call (`running`: in none). While it starts it waits in others, for the disk,
/// which are not interruptible; of those that are meant, vfork is not either.
fn waits_in(pid: u32, call: &str) {
    let is_in = || fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default().starts_with(call);
    let sleeps = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") S ");
    eventually(|| is_in() && (["running", "58 "].contains(&call) || sleeps()));
}

fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn said(child: Child) -> String {
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn is_traced(pid: u32) -> bool {
    !fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("TracerPid:\t0\n")
}

#[tokio::test]
async fn a_thread_that_receives_is_stopped_once_and_notices_nothing() {
    let (mut near, child, cookie) = application(READ);
    waits_in(child.id(), "0 0x0 ");
    let emptied = empty(&take(&child, cookie), PATIENCE).await.unwrap();
    // A further round finds it cleared.
    assert_eq!(emptied, Emptied { rounds: 2, threads: 1, stopped: 1, mended: 1 });
    near.write_all(b"hello").unwrap();
    assert_eq!(said(child), "5 hello\n");
}

#[test]
fn kicks_of_one_thread_at_the_same_time_wait_for_each_other() {
    let (mut near, child, cookie) = application(READ);
    waits_in(child.id(), "0 0x0 ");
    let taken = take(&child, cookie);
    std::thread::scope(|scope| {
        let kick = || empty_blocking(&taken, PATIENCE).unwrap();
        let kicks: Vec<_> = (0..8).map(|_| scope.spawn(kick)).collect();
        kicks.into_iter().for_each(|kick| assert_eq!(kick.join().unwrap().threads, 1));
    });
    near.write_all(b"hello").unwrap();
    assert_eq!(said(child), "5 hello\n");
}

#[test]
fn a_child_with_the_same_descriptor_is_moved_too() {
    let (mut near, child, cookie) = application(&format!("if (fork == 0) {{ {READ} }} else {{ wait }}"));
    eventually(|| children(child.id()).len() == 1);
    let grandchild = children(child.id())[0];
    waits_in(grandchild, "0 0x0 ");
    waits_in(child.id(), "61 ");
    let emptied = empty_blocking(&take(&child, cookie), PATIENCE).unwrap();
    assert_eq!((emptied.threads, emptied.stopped, emptied.mended), (2, 1, 1), "wait4 touches no socket");
    near.write_all(b"hello").unwrap();
    assert_eq!(said(child), "5 hello\n");
}

#[test]
fn a_child_that_moved_it_to_another_number_is_found() {
    // As inetd does: under the parent's number the child has something else.
    let moved =
        format!("open(my $d, '<&', STDIN); open(STDIN, '<', '/dev/null'); {}", READ.replace("STDIN", "$d"));
    let (mut near, child, cookie) = application(&format!("if (fork == 0) {{ {moved} }} else {{ wait }}"));
    eventually(|| children(child.id()).len() == 1);
    let grandchild = children(child.id())[0];
    waits_in(grandchild, "0 0x3 ");
    waits_in(child.id(), "61 ");
    let emptied = empty_blocking(&take(&child, cookie), PATIENCE).unwrap();
    assert_eq!((emptied.threads, emptied.stopped, emptied.mended), (2, 1, 1));
    near.write_all(b"hello").unwrap();
    assert_eq!(said(child), "5 hello\n");
}

#[test]
fn a_child_goes_on_inside_when_its_parent_is_gone_and_is_found() {
    let (mut near, mut child, cookie) =
        application(&format!("if (fork == 0) {{ {READ} }} else {{ sleep 60 }}"));
    eventually(|| children(child.id()).len() == 1);
    waits_in(children(child.id())[0], "0 0x0 ");
    let taken = take(&child, cookie);
    child.kill().unwrap();
    child.wait().unwrap();
    let emptied = empty_blocking(&taken, PATIENCE).unwrap();
    assert_eq!((emptied.threads, emptied.stopped), (1, 1));
    near.write_all(b"hello").unwrap();
    assert_eq!(said(child), "5 hello\n");
}

#[test]
fn one_that_receives_from_something_else_or_sleeps_is_left_alone() {
    let other = "pipe(my $r, my $w); sysread($r, my $b, 1)";
    for (program, call) in [(other, "0 0x"), ("sleep 60", "230 ")] {
        let (_near, mut child, cookie) = application(program);
        waits_in(child.id(), call);
        let emptied = empty_blocking(&take(&child, cookie), PATIENCE).unwrap();
        assert_eq!((emptied.threads, emptied.stopped), (1, 0), "{program}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn one_that_receives_by_another_number_of_the_same_socket_is_moved() {
    let program = format!("open(my $d, '<&', STDIN); open(STDIN, '<&', $d); {}", READ.replace("STDIN", "$d"));
    let (mut near, child, cookie) = application(&program);
    waits_in(child.id(), "0 0x3 ");
    assert_eq!(empty_blocking(&take(&child, cookie), PATIENCE).unwrap().mended, 1);
    near.write_all(b"hello").unwrap();
    assert_eq!(said(child), "5 hello\n");
}

#[test]
fn a_thread_that_computes_is_stopped_and_goes_on() {
    let (_near, mut child, cookie) = application("alarm 60; 1 while 1");
    waits_in(child.id(), "running");
    let emptied = empty_blocking(&take(&child, cookie), PATIENCE).unwrap();
    assert_eq!((emptied.stopped, emptied.mended), (1, 0));
    eventually(|| !is_traced(child.id()));
    waits_in(child.id(), "running");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_process_that_is_over_has_nobody_inside() {
    let (_near, mut child, cookie) = application("sleep 60");
    let taken = take(&child, cookie);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(empty_blocking(&taken, PATIENCE).unwrap().stopped, 0);
}

#[test]
fn one_that_was_killed_and_that_nobody_has_waited_for_is_no_failure() {
    let (_near, mut child, cookie) = application(READ);
    waits_in(child.id(), "0 0x0 ");
    let taken = take(&child, cookie);
    child.kill().unwrap();
    eventually(|| is_gone(child.id()));
    let emptied = empty_blocking(&taken, PATIENCE).unwrap();
    assert_eq!((emptied.threads, emptied.stopped), (1, 0), "ptrace says EPERM of it");
    child.wait().unwrap();
}

#[test]
fn a_thread_that_another_traces_is_an_error_only_where_it_may_be_inside() {
    for (program, call, inside) in [(READ, "0 0x0 ", true), ("sleep 60", "230 ", false)] {
        let (near, child, cookie) = application(program);
        waits_in(child.id(), call);
        let taken = take(&child, cookie);
        let (pid, tid) = (child.id(), child.id().cast_signed());
        // This thread is the debugger, the kick has its own.
        ptrace::seize(Pid::from_raw(tid), ptrace::Options::empty()).unwrap();
        let result = empty_blocking(&taken, PATIENCE);
        match result {
            Err(KickError::Refused { pid: of, tid: thread }) if inside => {
                assert_eq!((of, thread), (pid, tid))
            }
            Ok(emptied) if !inside => assert_eq!(emptied.stopped, 0),
            other => panic!("{program}: {other:?}"),
        }
        drop(near);
        let mut child = child;
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn one_that_cannot_leave_in_time_is_an_error_and_is_let_go_of() {
    // vfork: the parent sleeps where no signal wakes it. Its call is none of a socket, so it is stopped by hand.
    let (near, mut child, cookie) =
        application("if (syscall(58) == 0) { sysread(STDIN, my $b, 1) } syscall(231, 0)");
    waits_in(child.id(), "58 ");
    let patience = Duration::from_millis(30);
    let (pid, tid) = (child.id(), child.id().cast_signed());
    let mut kick = Kick::of(&take(&child, cookie), patience).unwrap();
    let result = std::thread::spawn(move || kick.stop(pid, tid)).join().unwrap();
    assert!(matches!(result, Err(KickError::Late { pid: of, .. }) if of == pid), "{result:?}");
    eventually(|| !is_traced(pid));
    drop(near);
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_time_the_first_round_that_finds_somebody_is_the_last() {
    let (mut near, child, cookie) = application(READ);
    waits_in(child.id(), "0 0x0 ");
    let result = empty_blocking(&take(&child, cookie), Duration::ZERO);
    assert!(matches!(result, Err(KickError::Late { .. })), "{result:?}");
    eventually(|| !is_traced(child.id()));
    // It was stopped and let go without the mend, or before it stopped.
    near.write_all(b"hello").unwrap();
    let said = said(child);
    assert!(said == "5 hello\n" || said == "Interrupted system call\n", "{said}");
}

#[test]
fn a_cgroup_that_is_not_known_is_an_error_and_one_that_is_gone_is_empty() {
    let (_near, mut child, cookie) = application("sleep 60");
    let mount = mount_point().unwrap();
    let taken = Taken::take(child.id(), 0, cookie, &mount).unwrap();
    let mut kick = Kick::of(&taken, PATIENCE).unwrap();
    kick.cgroup = None;
    assert!(matches!(kick.run(), Err(KickError::Unlisted { .. })));
    let mut kick = Kick::of(&taken, PATIENCE).unwrap();
    kick.cgroup = Some(mount.join("no-such-cgroup"));
    assert_eq!(kick.run().unwrap().threads, 1);
    let mut kick = Kick::of(&taken, PATIENCE).unwrap();
    kick.cgroup = Some(Path::new("/dev/null").into());
    assert!(matches!(kick.run(), Err(KickError::Unlisted { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn only_64_bit_programs_are_known() {
    assert!(sixty_four(std::process::id()).unwrap());
    assert!(sixty_four(u32::MAX).unwrap(), "one that is over");
}
