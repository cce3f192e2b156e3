//! nginx with the answers that are asked for.

use std::fs;

use anyhow::{Context, Result, bail};
use mtls_tests::{Pod, Process};

/// Sizes of the answers, in bytes; the last is for streams.
const SIZES: [u64; 5] = [64, 1024, 64 * 1024, DOWNLOAD as u64, STREAM];
/// A download, in bytes.
pub const DOWNLOAD: u32 = 8 << 20;
/// One answer of a stream.
const STREAM: u64 = 64 << 20;

/// The path of an answer of this size.
///
/// # Errors
/// If there is none.
pub fn path(size: u64) -> Result<String> {
    if !SIZES.contains(&size) {
        bail!("nginx has no answer of {size} bytes; it has {SIZES:?}");
    }
    Ok(format!("/{size}"))
}

/// The path of a long answer.
#[must_use]
pub fn stream() -> String {
    format!("/{STREAM}")
}

/// Starts nginx; one process, as every system has the same.
///
/// # Errors
/// When its files cannot be written.
pub fn nginx(pod: &Pod, port: u16) -> Result<Process> {
    let files = pod.files().join("www");
    fs::create_dir_all(&files).with_context(|| files.display().to_string())?;
    for size in SIZES {
        let path = files.join(size.to_string());
        let made = fs::File::create(&path).and_then(|file| file.set_len(size));
        made.with_context(|| path.display().to_string())?;
    }
    let here = files.display();
    let configuration = format!(
        "daemon off; user root; worker_processes 1; pid {here}/pid; error_log stderr;
events {{ worker_connections 100000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; sendfile on; tcp_nopush off; tcp_nodelay on;
  open_file_cache max=16 inactive=1h; open_file_cache_valid 1h;
  server {{
    listen {port} backlog=4096; root {here};
    location = /64 {{ default_type text/plain; return 200 {}; }}
    # sendfile gives the socket 64 KiB at a time, and would be what is measured: iperf3 saw a sixth more.
    location = {} {{ sendfile off; output_buffers 2 512k; }}
  }}
}}
",
        "x".repeat(64),
        stream()
    );
    let path = files.join("nginx.conf");
    fs::write(&path, configuration).with_context(|| path.display().to_string())?;
    let nginx = pod.cmd("nginx").args(["-e", "stderr", "-c"]).arg(path).spawn();
    pod.wait_port(port);
    Ok(nginx)
}
