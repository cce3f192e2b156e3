//! What carries a connection once both ends are there: the kernel's TLS, our own records, or rustls.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::context::Offload;
use super::pump::Pump;
use super::session::{NotTaken, Opened, Session};
use crate::datapath::PumpError;
use crate::datapath::ends::{count, idle_for, reset_unless_ended};
use crate::datapath::ktls::{self, Channel, KernelPump, Terms};
use crate::datapath::tls::ChannelError;
use crate::datapath::tls::pump::{Handover, Moved, UserPump, WORTH};
use crate::lease::Lease;
use crate::observe::Reason;
use crate::observe::connection::Datapath;
use crate::observe::observer::Observed;

const NOT_MUCH: &str = "relay-ktls takes over, while both directions are open, when large reads have brought 1 MiB; for \
                        small messages user space is faster; `datapath: relay-ktls` begins with it";

/// Why a relay carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDirect {
    /// Nothing could make it direct.
    NoSession,
    /// It could have been, but no tracing program saw its connect().
    Unreported,
}

impl NotDirect {
    /// For the log.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::NoSession => {
                "`direct` is off at one of both ends, their daemons had no session for it yet, or it failed for this pair a \
                 moment ago (the log says so); docs/direct.md"
            }
            Self::Unreported => {
                "no tracing program saw its connect(): it came by io_uring, or the kernel left the program out since another \
                 thread was in it on the same processor (the next one is likely to be direct); docs/direct.md"
            }
        }
    }

    /// With what keeps it in user space, where this is more than the usual.
    fn and(self, why: Cow<'static, str>) -> Cow<'static, str> {
        match self {
            Self::NoSession => why,
            Self::Unreported => format!("{}; {why}", self.why()).into(),
        }
    }
}

/// A pump of any kind.
pub enum Carrier<'a> {
    /// relay-userspace. The terms: on which the kernel may take over.
    UserSpace(UserPump<'a>, Option<Terms>, NotDirect),
    /// relay-ktls.
    Kernel(KernelPump<'a>),
    /// Plain on both sides, TLS 1.2, and what cannot be taken out of rustls.
    Other(Pump<'a>),
    /// The kernel took only half of it. Both sockets are closed.
    Lost(&'a Observed),
}

impl<'a> Carrier<'a> {
    /// Takes the best datapath for the beginning that `offload` allows, and notes which and why not a better one.
    /// `records_per_key`: how many one key may protect.
    ///
    /// # Errors
    /// When the connection was lost on the way out of rustls; both ends are reset.
    pub fn new(
        session: Session,
        application: TcpStream,
        observed: &'a Observed,
        offload: Result<Offload, Cow<'static, str>>,
        records_per_key: Option<u64>,
        not_direct: NotDirect,
    ) -> Result<Self, ChannelError> {
        let (session, later, why) = match offload {
            Err(why) => (session, None, why),
            Ok(Offload { terms, at_once: false }) => (session, Some(terms), NOT_MUCH.into()),
            Ok(Offload { terms, at_once: true }) => match session.into_kernel(&terms) {
                Ok(Opened { tcp, channel, plaintext }) => {
                    observed.established(Datapath::RelayKtls, Some(not_direct.why().into()));
                    observed.add_received(count(plaintext.waiting().len()));
                    return Ok(Self::Kernel(KernelPump::new(application, tcp, channel, observed, plaintext)));
                }
                Err(NotTaken::Stays(session, why)) => {
                    (*session, None, format!("no relay-ktls: {why}").into())
                }
                Err(NotTaken::Lost(error)) => return lost(&application, error),
            },
        };
        match session.into_user_space(records_per_key) {
            Ok(Opened { tcp, channel, plaintext }) => {
                observed.established(Datapath::RelayUserspace, Some(not_direct.and(why)));
                let mut pump = UserPump::new(application, tcp, channel, observed, plaintext);
                pump.hand_over(later.map(|_| Handover::after(WORTH)));
                Ok(Self::UserSpace(pump, later, not_direct))
            }
            Err(NotTaken::Stays(session, stays)) => {
                let why = if later.is_some() { format!("no relay-ktls: {stays}").into() } else { why };
                observed.established(Datapath::RelayUserspace, Some(not_direct.and(why)));
                let (peer, codec, incoming, to_application, to_peer) = session.into_parts();
                let pump = Pump::new(application, peer, codec, observed, incoming, to_application, to_peer);
                Ok(Self::Other(pump))
            }
            Err(NotTaken::Lost(error)) => lost(&application, error),
        }
    }

    /// Moves bytes until both directions have ended, or one end fails, or nothing was moved for `idle`.
    ///
    /// # Errors
    /// Why the connection was cut.
    pub async fn run(&mut self, idle: Option<Duration>) -> Result<(), PumpError> {
        let observed = self.observed();
        // By reference, and what is rare boxed: the future keeps a place for each.
        let mut moved = pin!(self.move_all());
        let Some(limit) = idle else {
            return moved.as_mut().await;
        };
        tokio::select! {
            result = moved.as_mut() => result,
            () = Box::pin(idle_for(limit, observed)) => Err(PumpError::Idle(limit)),
        }
    }

    async fn move_all(&mut self) -> Result<(), PumpError> {
        loop {
            match self {
                Self::UserSpace(pump, ..) => match pump.run().await? {
                    Moved::All => return Ok(()),
                    Moved::Enough => self.hand_over()?,
                },
                Self::Kernel(pump) => return pump.run().await,
                Self::Other(pump) => return Box::pin(pump.run()).await,
                Self::Lost(_) => return Err(PumpError::Over(Arc::new(Reason::Internal.into()))),
            }
        }
    }

    /// Hands a connection that carries much to the kernel, or leaves it for good where it is.
    fn hand_over(&mut self) -> Result<(), ChannelError> {
        let observed = self.observed();
        let Self::UserSpace(pump, later, _) = self else { return Ok(()) };
        let Some(terms) = later.take() else {
            pump.hand_over(None);
            return Ok(());
        };
        if let Err(errno) = ktls::enable(pump.peer()) {
            observed.stays(format!("no relay-ktls: setsockopt(TCP_ULP, \"tls\") says {errno}"));
            pump.hand_over(None);
            return Ok(());
        }
        let Self::UserSpace(pump, _, not_direct) = std::mem::replace(self, Self::Lost(observed)) else {
            return Ok(());
        };
        let (application, peer, handed, to_application) = pump.into_parts()?;
        let channel = Channel::install(&peer, handed, &terms)?;
        observed.moved(Datapath::RelayKtls, not_direct.why().into());
        *self = Self::Kernel(KernelPump::new(application, peer, channel, observed, to_application));
        Ok(())
    }

    /// As [`Carrier::run`], but no longer than the lease lasts.
    ///
    /// # Errors
    /// As [`Carrier::run`], and [`PumpError::Over`].
    pub async fn run_until(&mut self, idle: Option<Duration>, lease: &mut Lease) -> Result<(), PumpError> {
        let result = tokio::select! {
            // First: what was over before it began moves no byte.
            biased;
            refusal = lease.over() => Err(PumpError::Over(refusal)),
            result = self.run(idle) => result,
        };
        // The other end may have been told a moment before us, and have reset the connection.
        match (result, lease.refusal()) {
            (Err(_), Some(refusal)) => Err(PumpError::Over(refusal)),
            (result, _) => result,
        }
    }

    /// Closes both sockets as the result asks for.
    pub fn end(self, result: &Result<(), PumpError>) {
        match self {
            Self::UserSpace(pump, ..) => pump.end(result),
            Self::Kernel(pump) => pump.end(result),
            Self::Other(pump) => pump.end(result),
            Self::Lost(_) => {}
        }
    }

    fn observed(&self) -> &'a Observed {
        match self {
            Self::UserSpace(pump, ..) => pump.observed(),
            Self::Kernel(pump) => pump.observed(),
            Self::Other(pump) => pump.observed(),
            Self::Lost(observed) => observed,
        }
    }
}

/// The application is not to take it for a clean end.
fn lost<T>(application: &TcpStream, error: ChannelError) -> Result<T, ChannelError> {
    reset_unless_ended(application);
    Err(error)
}
