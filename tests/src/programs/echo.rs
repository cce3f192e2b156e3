//! Programs in other languages that give bytes back, and that send them, receive them and compare.

use std::fs;

use super::directory;
use crate::lab::{Cmd, Pod, Process};
use crate::slow;

/// A language, by its runtime.
#[derive(Debug, Clone, Copy)]
pub enum Echo {
    /// OpenJDK runs a source file; its sockets are non-blocking and wait in poll().
    Java,
    /// libuv: edge-triggered epoll.
    Node,
    /// A server that forks for each connection, and a client of asyncio.
    Python,
}

impl Echo {
    fn command(self, pod: &Pod) -> Cmd {
        let (program, options, file, text): (_, &[&str], _, _) = match self {
            // Little to start: no second compiler, no parallel collector.
            Self::Java => (
                "java",
                &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m"],
                "Echo.java",
                include_str!("echo/Echo.java"),
            ),
            Self::Node => ("node", &[], "echo.js", include_str!("echo/echo.js")),
            Self::Python => ("/usr/bin/python3", &[], "echo.py", include_str!("echo/echo.py")),
        };
        let path = directory(pod, "echo").join(file);
        fs::write(&path, text).expect("lab directory is writable");
        pod.cmd(program).args(options).arg(path)
    }

    /// The server, listening.
    #[track_caller]
    pub fn serve(self, pod: &Pod, port: u16) -> Process {
        let mut process = self.command(pod).args(["serve", &port.to_string()]).spawn();
        crate::eventually(slow::limit(60), "the echo server to listen", || {
            assert!(process.poll().is_none(), "it ended:\n{}", process.printed());
            pod.listens(port).then_some(())
        });
        process
    }

    /// So many connections, one after another, each with so many bytes there and back.
    ///
    /// # Panics
    /// When a byte did not come back.
    #[track_caller]
    pub fn compare(self, pod: &Pod, to: std::net::SocketAddr, bytes: u64, count: usize) {
        let words = [to.ip().to_string(), to.port().to_string(), bytes.to_string(), count.to_string()];
        let output = self.command(pod).args(words).limit(slow::limit(90)).run().ok();
        assert_eq!(output.text(), "same");
    }
}
