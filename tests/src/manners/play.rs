//! The application of [`super`] at both ends of a connection between `web` and `far`.

use std::net::SocketAddr;

use crate::direct::World;
use crate::lab::{Pod, Process};
use crate::slow;

/// What both ends run.
#[derive(Debug, Clone, Copy)]
pub struct Play {
    /// The client's, a name of [`super::Manner::ALL`].
    pub manner: &'static str,
    /// The server's.
    pub served: &'static str,
    /// A name of [`super::Shape::ALL`].
    pub shape: &'static str,
    /// Of the bytes.
    pub seed: u64,
    /// Bytes from client to server.
    pub up: u64,
    /// Bytes from server to client.
    pub down: u64,
    /// Connections, one after another.
    pub count: usize,
}

impl Play {
    /// One connection with several records in each direction, the last one not full.
    pub fn new(manner: &'static str, shape: &'static str, seed: u64) -> Self {
        Self { manner, served: manner, shape, seed, up: 150_001, down: 90_007, count: 1 }
    }

    fn spawn(self, pod: &Pod, role: &str, at: SocketAddr) -> Process {
        let Self { manner, served, shape, seed, up, down, count } = self;
        let manner = if role == "serve" { served } else { manner };
        let numbers = [seed, up, down, count as u64].map(|number| number.to_string());
        pod.own("manners").args([role, &at.to_string(), manner, shape]).args(numbers).spawn().quiet()
    }

    /// The server, listening.
    #[track_caller]
    pub fn serve(self, world: &World, to: SocketAddr) -> Process {
        let process = self.spawn(world.far(), "serve", SocketAddr::new([0, 0, 0, 0].into(), to.port()));
        world.far().wait_port(to.port());
        process
    }

    /// The client.
    #[track_caller]
    pub fn connect(self, world: &World, to: SocketAddr) -> Process {
        self.spawn(world.web(), "connect", to)
    }

    /// Both ends, to their ends.
    ///
    /// # Errors
    /// What either says was wrong, or that it hangs.
    #[track_caller]
    pub fn run(self, world: &World, to: SocketAddr) -> Result<(), String> {
        let mut server = self.serve(world, to);
        let mut client = self.connect(world, to);
        let mut told = Vec::new();
        for (name, process) in [("client", &mut client), ("server", &mut server)] {
            match process.ends_within(slow::limit(12)) {
                Some(status) if status.success() => {}
                Some(status) => told.push(format!("{name} ({status}): {}", process.stderr().trim())),
                None => told.push(format!("{name} hangs: {}", process.printed().trim())),
            }
        }
        if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
    }
}
