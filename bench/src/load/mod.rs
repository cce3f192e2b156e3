//! Our load generator: `mtls-bench load …`, run inside the client's namespace. One thread, as one wrk has. It prints
//! one JSON object, a [`Told`].

mod download;
mod histogram;
mod http;
mod paced;
mod stream;

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep_until, timeout};

use self::histogram::Times;
use self::http::Client;
use crate::machine::cpu_seconds;
use crate::result::Latency;

/// What nobody waits for any longer, seconds.
const LOST: u64 = 30;
/// Said when all connections are there. No error message has these words ("too many open files").
pub const READY: &str = "all connections are there";

/// What is asked of the server, and where it is.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Address of the HTTP server, as the application knows it.
    address: SocketAddr,
    /// Path of the request.
    path: String,
    /// Length of the measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Before it, not measured.
    #[arg(long, default_value_t = 0.2)]
    warm_up: f64,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Load {
    /// Request after request on each connection.
    Requests {
        #[command(flatten)]
        target: Target,
        /// Connections.
        #[arg(long)]
        connections: u32,
    },
    /// Requests at a fixed rate; latency counts from when each was due.
    Paced {
        #[command(flatten)]
        target: Target,
        /// Connections.
        #[arg(long)]
        connections: u32,
        /// Requests per second, all connections together.
        #[arg(long)]
        rate: f64,
    },
    /// Bytes from the server, as many as there come.
    Stream {
        #[command(flatten)]
        target: Target,
        /// Connections.
        #[arg(long)]
        streams: u32,
    },
    /// Connect, one long answer, close, again and again.
    Download {
        #[command(flatten)]
        target: Target,
        /// Length of the answer.
        #[arg(long)]
        bytes: u32,
    },
    /// Connect, one request, close, again and again.
    Connect {
        #[command(flatten)]
        target: Target,
        /// At the same time.
        #[arg(long)]
        parallel: u32,
    },
    /// Opens a connection, asks once, prints `open`, waits for a line, asks so many times, prints `done`, keeps it until standard
    /// input ends.
    Counted {
        #[command(flatten)]
        target: Target,
        /// Requests.
        #[arg(long)]
        requests: u32,
    },
    /// Opens connections, asks once on each, prints `open`, keeps them until standard input ends.
    Idle {
        #[command(flatten)]
        target: Target,
        /// Connections.
        #[arg(long)]
        connections: u32,
    },
}

/// What a load generator found out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    /// Requests, connections or bytes.
    pub count: u64,
    /// In how long.
    pub seconds: f64,
    /// What failed.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// Of each.
    pub latency: Option<Latency>,
    /// Seconds that the machine's processors were busy meanwhile.
    pub cpu_seconds: f64,
}

/// Measures, and prints what came of it.
///
/// # Errors
/// When not one connection can be made.
pub fn run(load: Load) -> Result<()> {
    let told = match load {
        Load::Requests { target, connections } => on_one_thread(requests(target, connections)),
        Load::Paced { target, connections, rate } => paced::run(&target, connections, rate),
        Load::Stream { target, streams } => stream::run(&target, streams),
        Load::Download { target, bytes } => download::run(&target, bytes),
        Load::Connect { target, parallel } => on_one_thread(connect(target, parallel)),
        Load::Counted { target, requests } => on_one_thread(counted(target, requests)),
        Load::Idle { target, connections } => on_one_thread(idle(target, connections)),
    }?;
    println!("{}", serde_json::to_string(&told)?);
    Ok(())
}

fn on_one_thread(measured: impl Future<Output = Result<Told>>) -> Result<Told> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measured)
}

/// What the tasks of one measurement share: they are on one thread.
struct Shared {
    begin: Instant,
    end: Instant,
    count: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    times: RefCell<Times>,
}

impl Shared {
    fn new(target: &Target) -> Result<Rc<Self>> {
        let begin = Instant::now() + seconds(target.warm_up)?;
        Ok(Rc::new(Self {
            begin,
            end: begin + seconds(target.seconds)?,
            count: Cell::new(0),
            errors: Cell::new(0),
            first_error: RefCell::new(None),
            times: RefCell::new(Times::new()?),
        }))
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Something is done now.
    fn done(&self, began: Instant) {
        let now = Instant::now();
        if began >= self.begin && now < self.end {
            self.count.set(self.count.get() + 1);
            self.times.borrow_mut().add(now.duration_since(began));
        }
    }

    fn failed(&self, error: impl ToString) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
    }

    /// Waits for the end, and takes the processors' time between the two.
    async fn watch(self: Rc<Self>) -> Result<f64> {
        sleep_until(self.begin.into()).await;
        let before = cpu_seconds()?;
        sleep_until(self.end.into()).await;
        Ok(cpu_seconds()? - before)
    }

    async fn told(self: Rc<Self>, mut tasks: JoinSet<()>) -> Result<Told> {
        let cpu_seconds = Rc::clone(&self).watch().await?;
        let deadline = self.end + Duration::from_secs(LOST);
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline.into(), tasks.join_next()).await {
            ended?;
        }
        (0..tasks.len()).for_each(|_| self.failed("no answer"));
        tasks.abort_all();
        Ok(Told {
            count: self.count.get(),
            seconds: self.end.duration_since(self.begin).as_secs_f64(),
            errors: self.errors.get(),
            first_error: self.first_error.borrow().clone(),
            latency: self.times.borrow().summary(),
            cpu_seconds,
        })
    }
}

fn seconds(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{seconds} seconds are no time"))
}

/// Opens all connections before the time begins.
async fn open(target: &Target, connections: u32) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for number in 0..connections {
        let open = async {
            let mut client = Client::connect(target.address, &target.path).await?;
            client.ask().await.map(|_| client)
        };
        let client = timeout(Duration::from_secs(LOST), open).await.map_err(std::io::Error::from).flatten();
        clients.push(client.with_context(|| format!("connection {number} to {}", target.address))?);
    }
    Ok(clients)
}

async fn requests(target: Target, connections: u32) -> Result<Told> {
    let clients = open(&target, connections).await?;
    let shared = Shared::new(&target)?;
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let shared = Rc::clone(&shared);
        tasks.spawn_local(async move {
            while !shared.is_over() {
                let asked = Instant::now();
                if let Err(error) = client.ask().await {
                    return shared.failed(error);
                }
                shared.done(asked);
            }
        });
    }
    shared.told(tasks).await
}

async fn connect(target: Target, parallel: u32) -> Result<Told> {
    let shared = Shared::new(&target)?;
    let mut tasks = JoinSet::new();
    for _ in 0..parallel {
        let (shared, target) = (Rc::clone(&shared), target.clone());
        tasks.spawn_local(async move {
            while !shared.is_over() {
                let due = Instant::now();
                let once = async { Client::connect(target.address, &target.path).await?.ask().await };
                match once.await {
                    Ok(_) => shared.done(due),
                    Err(error) => shared.failed(error),
                }
            }
        });
    }
    shared.told(tasks).await
}

async fn idle(target: Target, connections: u32) -> Result<Told> {
    let before = Instant::now();
    let clients = open(&target, connections).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").and_then(|()| out.flush())?;
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    Ok(Told {
        count: u64::try_from(clients.len())?,
        seconds: before.elapsed().as_secs_f64(),
        errors: 0,
        first_error: None,
        latency: None,
        cpu_seconds: 0.0,
    })
}

async fn counted(target: Target, requests: u32) -> Result<Told> {
    let mut clients = open(&target, 1).await?;
    let say = |word: &str| {
        let mut out = std::io::stdout();
        writeln!(out, "{word}").and_then(|()| out.flush())
    };
    say(READY)?;
    std::io::stdin().read_line(&mut String::new())?;
    let before = Instant::now();
    for client in &mut clients {
        for _ in 0..requests {
            client.ask().await?;
        }
    }
    let took = before.elapsed();
    say("done")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(Told {
        count: requests.into(),
        seconds: took.as_secs_f64(),
        errors: 0,
        first_error: None,
        latency: None,
        cpu_seconds: 0.0,
    })
}
