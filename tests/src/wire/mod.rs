//! What crossed the wire: tcpdump on the bridge, and checks over what it wrote.

mod packet;
mod pcap;
mod stream;
mod tls;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::{Lab, Process, net};
use crate::slow;

pub use packet::Segment;
pub use stream::Stream;
pub use tls::TlsFault;

/// A capture that is running. [`Capture::stop`] gives what it saw.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

/// What a capture saw.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Every frame, as it was on the wire.
    pub frames: Vec<Vec<u8>>,
    /// One entry for each direction of each TCP connection.
    pub streams: Vec<Stream>,
}

impl Capture {
    /// Starts tcpdump on the lab's bridge and waits until it captures.
    ///
    /// # Panics
    /// If tcpdump does not start.
    #[track_caller]
    pub fn start(lab: &Lab) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let file = lab.dir().join(format!("wire-{number}.pcap"));
        // -B: 64 MiB of buffer, so that a busy machine loses nothing; -Z root: the lab's directory is root's.
        let args =
            ["-n", "-U", "--immediate-mode", "-s", "0", "-B", "65536", "-Z", "root", "-i", net::BRIDGE, "-w"];
        let place = lab.tools(Some(&lab.wire()));
        let mut tcpdump = crate::lab::Cmd::new(place, "tcpdump").args(args).arg(&file).spawn();
        tcpdump.wait_for("listening on");
        Self { tcpdump, file }
    }

    /// What was seen so far, without stopping.
    #[track_caller]
    pub fn so_far(&self) -> Traffic {
        let bytes = fs::read(&self.file).expect("tcpdump's file is readable");
        Traffic::parse(&bytes).unwrap_or_else(|e| panic!("{}: {e}", self.file.display()))
    }

    /// Stops and parses.
    ///
    /// # Panics
    /// If tcpdump lost packets or wrote what cannot be parsed.
    #[track_caller]
    pub fn stop(mut self) -> Traffic {
        // The last packets of a connection may still be on their way when the program has ended.
        std::thread::sleep(Duration::from_millis(200));
        self.tcpdump.signal(Signal::SIGINT);
        let output = self.tcpdump.output(slow::limit(20));
        let lost = output.stderr.lines().find(|l| l.contains("dropped by kernel")).map(str::to_owned);
        assert!(
            lost.as_deref().is_some_and(|l| l.starts_with("0 ")),
            "tcpdump lost packets, the capture proves nothing: {}",
            output.stderr
        );
        self.so_far()
    }
}

impl Traffic {
    /// Parses a pcap file.
    ///
    /// # Errors
    /// If it is not one, is of an unknown link type, or holds more than this parser is made for.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let capture = pcap::parse(file)?;
        let mut streams = stream::Reassembler::default();
        for frame in &capture.frames {
            if let Some(segment) = packet::tcp(capture.link, frame) {
                streams.add(&segment);
            }
        }
        Ok(Self { streams: streams.finish(), frames: capture.frames })
    }

    /// The streams from or to a port.
    pub fn of_port(&self, port: u16) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(move |s| s.from.port() == port || s.to.port() == port)
    }

    /// Checks that every payload byte from and to `port` is part of a TLS record; gives how many there were.
    ///
    /// # Panics
    /// If one is not, if packets are missing, or if there was nothing to check.
    #[track_caller]
    pub fn assert_only_tls(&self, port: u16) -> usize {
        let mut bytes = 0;
        for stream in self.of_port(port) {
            if let Err(fault) = tls::check(stream) {
                panic!("{} -> {}: {fault}", stream.from, stream.to);
            }
            bytes += stream.bytes.len();
        }
        assert!(bytes > 0, "no byte was captured from or to port {port}: nothing was proved");
        bytes
    }

    /// Checks that not one payload byte went from or to `port`.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn assert_no_payload(&self, port: u16) {
        for stream in self.of_port(port) {
            let shown = String::from_utf8_lossy(stream.bytes.get(..64).unwrap_or(&stream.bytes));
            assert!(stream.bytes.is_empty(), "{} -> {} carried {shown:?}", stream.from, stream.to);
        }
    }

    /// Checks that `marker` is nowhere: in no frame and in no stream.
    ///
    /// # Panics
    /// If it is.
    #[track_caller]
    pub fn assert_absent(&self, marker: &[u8]) {
        if let Some(place) = self.find(marker) {
            panic!("{:?} was on the wire: {place}", String::from_utf8_lossy(marker));
        }
    }

    /// Where `marker` is, if anywhere.
    pub fn find(&self, marker: &[u8]) -> Option<String> {
        let holds = |bytes: &[u8]| !marker.is_empty() && bytes.windows(marker.len()).any(|w| w == marker);
        if let Some(stream) = self.streams.iter().find(|s| holds(&s.bytes)) {
            return Some(format!("stream {} -> {}", stream.from, stream.to));
        }
        self.frames.iter().position(|f| holds(f)).map(|n| format!("frame {n}"))
    }
}

#[cfg(test)]
mod tests {
    use super::packet::tests::{FIN, SYN, frame};
    use super::pcap::tests::file;
    use super::*;

    #[test]
    fn a_file_of_frames_becomes_streams_and_frames_that_are_not_tcp_stay_searchable() {
        let (a, b) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:443".parse().unwrap());
        let record = b"\x17\x03\x03\0\x06secret";
        let frames = vec![
            frame(a, b, 9, SYN, b""),
            frame(a, b, 10, 0, &record[..7]),
            frame(a, b, 17, FIN, &record[7..]),
            b"some broadcast".to_vec(),
        ];
        let traffic = Traffic::parse(&file(1, &frames)).unwrap();
        assert_eq!(traffic.assert_only_tls(443), record.len());
        // Split over two packets, so only the stream holds it.
        assert_eq!(traffic.find(b"secret").unwrap(), "stream 10.0.0.1:1000 -> 10.0.0.2:443");
        assert_eq!(traffic.find(b"broadcast").unwrap(), "frame 3");
        assert_eq!(traffic.find(b"absent"), None);
        traffic.assert_no_payload(80);
    }
}
