//! The daemon's own log, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{layer::SubscriberExt, registry};

use crate::config::LogLevel;

/// Changes the level of a running log.
#[derive(Clone)]
pub struct LogControl(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LogControl {
    /// Starts logging. A second call in one process changes nothing.
    #[must_use]
    pub fn start() -> Self {
        let (filter, handle) = reload::Layer::new(filter(LogLevel::Info));
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        // Only a test's second daemon in one process meets an existing log.
        let _already = registry().with(filter).with(lines).try_init();
        let _bridged = tracing_log::LogTracer::init();
        Self(handle)
    }

    /// Logs at this level from now on.
    pub fn set_level(&self, level: LogLevel) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    })
}
