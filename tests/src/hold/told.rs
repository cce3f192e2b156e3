//! The test's side of an application that does as it is told.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs;

use super::arm::Taken;
use crate::lab::{Pod, Process, eventually};
use crate::slow;

/// An application in a pod. Its threads have names, and each does one thing at a time.
#[derive(Debug)]
pub struct App {
    process: RefCell<Process>,
    serial: Cell<u32>,
}

/// A command that was given, and the thread that has it.
pub struct Ticket {
    serial: u32,
    thread: String,
    command: String,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} `{}` of {}", self.serial, self.command, self.thread)
    }
}

impl App {
    /// Starts one.
    #[track_caller]
    pub fn new(pod: &Pod) -> Self {
        let mut process = pod.own("hold").piped().spawn();
        process.wait_for("ready");
        Self { process: RefCell::new(process), serial: Cell::new(1) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.borrow().pid()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        self.process.borrow_mut().signal(signal);
    }

    /// Gives a thread a command, without waiting.
    pub fn tell(&self, thread: &str, command: &str) -> Ticket {
        let serial = self.serial.replace(self.serial.get() + 1);
        self.process.borrow_mut().write(format!("{serial} {thread} {command}\n").as_bytes());
        Ticket { serial, thread: thread.to_owned(), command: command.to_owned() }
    }

    /// Its answer, if it has come.
    pub fn answered(&self, ticket: &Ticket) -> Option<String> {
        self.line(&format!("#{} ", ticket.serial))
    }

    /// Waits for the answer.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn answer(&self, ticket: &Ticket) -> String {
        eventually(slow::limit(30), &format!("an answer to {ticket:?}"), || self.answered(ticket))
    }

    /// A command and its answer.
    #[track_caller]
    pub fn ask(&self, thread: &str, command: &str) -> String {
        self.answer(&self.tell(thread, command))
    }

    /// A command whose answer must be this.
    #[track_caller]
    pub fn does(&self, thread: &str, command: &str, answer: &str) {
        assert_eq!(self.ask(thread, command), answer, "{thread}: {command}");
    }

    /// The thread's id.
    #[track_caller]
    pub fn tid(&self, thread: &str) -> i32 {
        let tid = eventually(slow::limit(30), "a thread's id", || self.line(&format!("tid {thread} ")));
        tid.parse().expect("a number")
    }

    /// The number and arguments of the system call in which the thread waits, by `/proc`; empty if it runs.
    pub fn call(&self, thread: &str) -> Vec<u64> {
        let file = format!("/proc/{}/task/{}/syscall", self.pid(), self.tid(thread));
        let text = fs::read_to_string(file).unwrap_or_default();
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        };
        text.split_whitespace().map_while(number).collect()
    }

    /// Waits until the thread waits in one of these system calls.
    ///
    /// # Panics
    /// If it answers instead, or never does.
    #[track_caller]
    pub fn waits_in(&self, ticket: &Ticket, calls: &[i64]) {
        eventually(slow::limit(30), &format!("{ticket:?} to wait in {calls:?}"), || {
            let answer = self.answered(ticket);
            assert!(answer.is_none(), "{ticket:?} did not wait: {answer:?}");
            let call = self.call(&ticket.thread).first().copied()?.cast_signed();
            calls.contains(&call).then_some(())
        });
    }

    /// Gives a command in which the thread waits, and waits until it does.
    #[track_caller]
    pub fn blocks(&self, thread: &str, command: &str, calls: &[i64]) -> Ticket {
        let ticket = self.tell(thread, command);
        self.waits_in(&ticket, calls);
        ticket
    }

    /// A duplicate of one of its sockets.
    ///
    /// # Panics
    /// If it has none of this name.
    #[track_caller]
    pub fn take(&self, socket: &str) -> Taken {
        let fd = self.ask("fd", &format!("fd {socket}"));
        let fd = fd.parse().unwrap_or_else(|_| panic!("no descriptor of {socket}: {fd}"));
        Taken::new(self.pid(), fd).expect("pidfd_getfd")
    }

    /// The process id of the child that `cat` started with a socket.
    #[track_caller]
    pub fn child(&self, socket: &str) -> u32 {
        let pid = eventually(slow::limit(30), "a child", || self.line(&format!("child {socket} ")));
        pid.parse().expect("a number")
    }

    fn line(&self, start: &str) -> Option<String> {
        let printed = String::from_utf8_lossy(&self.process.borrow().stdout()).into_owned();
        let (whole, _torn) = printed.rsplit_once('\n')?;
        whole.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
    }
}
