//! SOCK_DESTROY of one end of a connection.

use std::io;

use mtls_direct::FourTuple;

use crate::sys::sock_diag;

/// In the namespace of the socket. How many were ended.
pub(super) fn destroy(cookie: Option<u64>, tuple: FourTuple) -> io::Result<usize> {
    let FourTuple { client, server } = tuple;
    let mut ends = Vec::new();
    match cookie {
        Some(cookie) => ends.extend([(client, server, cookie), (server, client, cookie)]),
        // Whatever has the addresses, a socket that nobody reported yet too.
        None => sock_diag::each_tcp(sock_diag::StateFlags::all(), None, |socket| {
            let (local, remote) = (socket.local, socket.remote);
            if (local, remote) == (client, server) || (local, remote) == (server, client) {
                ends.push((local, remote, socket.cookie));
            }
        })?,
    }
    let mut ended = 0;
    for (local, remote, cookie) in ends {
        ended += usize::from(sock_diag::destroy(local, remote, cookie)?);
    }
    Ok(ended)
}
