//! Downloads, one after the other, each on a connection of its own: what `curl` would call its speed.

use std::time::Instant;

use anyhow::{Context, Result};

use super::histogram::Times;
use super::paced::Client;
use super::{Target, Told, seconds};
use crate::machine::cpu_seconds;

/// At least so many, however long they take.
const LEAST: u64 = 3;

/// The first download is not counted: it brings the file into memory.
///
/// # Errors
/// When the first one fails.
pub fn run(target: &Target, bytes: u32) -> Result<Told> {
    Client::open(target).with_context(|| format!("the download from {}", target.address))?;
    let end = Instant::now() + seconds(target.seconds)?;
    let before = cpu_seconds()?;
    let mut times = Times::new()?;
    let mut told =
        Told { count: 0, seconds: 0.0, errors: 0, first_error: None, latency: None, cpu_seconds: 0.0 };
    let mut done = 0;
    while done < LEAST || Instant::now() < end {
        let began = Instant::now();
        if let Err(error) = Client::open(target) {
            told.errors += 1;
            told.first_error = Some(error.to_string());
            break;
        }
        let time = began.elapsed();
        times.add(time);
        told.seconds += time.as_secs_f64();
        told.count += u64::from(bytes);
        done += 1;
    }
    told.cpu_seconds = cpu_seconds()? - before;
    told.latency = times.summary();
    Ok(told)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A server of so many downloads, each of which takes `pause` after the connection is there.
    fn served(answers: usize, pause: Duration) -> Result<Told> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().take(answers) {
                let mut stream = stream.unwrap();
                assert!(stream.read(&mut [0; 512]).unwrap() > 0);
                thread::sleep(pause);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").unwrap();
                stream.write_all(&[7; 1000]).unwrap();
            }
        });
        run(&Target { address, path: "/".into(), seconds: 0.05, warm_up: 0.0 }, 1000)
    }

    #[test]
    fn the_rate_is_bytes_by_the_time_of_connection_and_answer() {
        let told = served(100, Duration::from_millis(30)).unwrap();
        assert_eq!((told.count, told.errors), (3000, 0), "three at least: {told:?}");
        assert!(told.seconds > 0.09, "{told:?}");
        assert_eq!(told.latency.unwrap().count, 3);
    }

    #[test]
    fn a_download_that_fails_is_an_error_and_the_first_one_the_end() {
        let told = served(3, Duration::ZERO).unwrap();
        assert_eq!((told.count, told.errors), (2000, 1), "{told:?}");
        assert!(told.first_error.is_some());
        assert!(
            format!("{:#}", served(0, Duration::ZERO).unwrap_err()).contains("the download from 127.0.0.1:")
        );
    }
}
