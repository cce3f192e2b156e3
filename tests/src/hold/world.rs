//! Two pods whose sockets are born held, an application in each, and the test between them as the armer.

use super::arm::{RELEASED, release_to};
use super::{App, Key, Taken, install, kick, release};
use crate::lab::{Lab, eventually};
use crate::slow;

/// What the client's side sends with, and the server's.
pub const KEYS: [Key; 2] = [Key(1), Key(2)];

/// Where the server listens.
pub const PORT: u16 = 7000;

/// A client's and a server's application.
#[derive(Debug)]
pub struct World {
    /// The client.
    pub client: App,
    /// The server, which listens as `l`.
    pub server: App,
    /// The server's address.
    pub at: String,
    /// Where they run; last, so that it is dropped last.
    pub lab: Lab,
}

impl World {
    /// One with the hold: net.ipv4.tcp_notsent_lowat = 0.
    #[track_caller]
    pub fn held() -> Self {
        let world = Self::free();
        for pod in ["c", "s"] {
            world.lab.pod(pod).sysctl("net.ipv4.tcp_notsent_lowat", "0");
        }
        world
    }

    /// One as the kernel makes it.
    #[track_caller]
    pub fn free() -> Self {
        let lab = Lab::new(&["c", "s"]);
        let (client, server) = (App::new(lab.pod("c")), App::new(lab.pod("s")));
        let at = lab.pod("s").at(PORT).to_string();
        server.does("main", &format!("listen l {at}"), "ok");
        Self { client, server, at, lab }
    }

    /// A connection; both ends have this name.
    #[track_caller]
    pub fn connect(&self, name: &str) {
        self.client.does("main", &format!("connect {name} {}", self.at), "ok");
        self.server.does("main", &format!("accept {name} l"), "ok");
    }

    /// A connection whose client has a small receive buffer, bytes.
    #[track_caller]
    pub fn connect_small(&self, name: &str, buffer: usize) {
        self.client.does("main", &format!("connect-small {name} {} {buffer}", self.at), "ok");
        self.server.does("main", &format!("accept {name} l"), "ok");
    }

    /// Duplicates of both ends.
    #[track_caller]
    pub fn take(&self, name: &str) -> [Taken; 2] {
        [self.client.take(name), self.server.take(name)]
    }

    /// Installs both keys of both ends.
    #[track_caller]
    pub fn keys(&self, ends: &[Taken; 2]) {
        let [client, server] = KEYS;
        install(&ends[0], server, client).expect("the client's end takes the keys");
        install(&ends[1], client, server).expect("the server's end takes the keys");
    }

    /// The whole of it: keys, kick, release, and the duplicates are closed.
    #[track_caller]
    pub fn arm(&self, name: &str) {
        self.arm_and_release_to(name, RELEASED);
    }

    /// The same, with a TCP_NOTSENT_LOWAT.
    #[track_caller]
    pub fn arm_and_release_to(&self, name: &str, lowat: u32) {
        let ends = self.take(name);
        self.keys(&ends);
        self.kick();
        for end in &ends {
            release_to(end, lowat).expect("TCP_NOTSENT_LOWAT");
        }
    }

    /// Kicks both applications, mended.
    #[track_caller]
    pub fn kick(&self) {
        for app in [&self.client, &self.server] {
            kick(app.pid(), true).expect("ptrace");
        }
    }

    /// Releases both ends, without keys.
    #[track_caller]
    pub fn release(&self, name: &str) {
        Self::let_go(&self.take(name));
    }

    /// Releases both ends, of which there are duplicates.
    #[track_caller]
    pub fn let_go(ends: &[Taken; 2]) {
        for end in ends {
            release(end).expect("TCP_NOTSENT_LOWAT");
        }
    }

    /// Waits until the only connection in a pod, `c` or `s`, is in this state, as `ss` names it.
    #[track_caller]
    pub fn wait_state(&self, state: &str, pod: &str) {
        let command = ["ss", "-Htn", "state", &state.to_lowercase()];
        eventually(slow::limit(20), &format!("{state} in {pod}"), || {
            (!self.lab.pod(pod).run(&command).ok().text().is_empty()).then_some(())
        });
    }

    /// Waits until an end has something to read, or its end.
    #[track_caller]
    pub fn readable(&self, app: &App, name: &str) {
        eventually(slow::limit(20), "something to read", || {
            app.ask("ready", &format!("poll {name} in 1000")).starts_with('1').then_some(())
        });
    }
}
