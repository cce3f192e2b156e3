//! Reading the headers of a packet.

use aya_ebpf::programs::SkBuffContext;
use mtls_common::Endpoint;

use crate::address::{endpoint, from_v4, from_v6};

const IPPROTO_TCP: u8 = 6;
pub const FLAG_FIN: u8 = 0x01;
pub const FLAG_SYN: u8 = 0x02;
pub const FLAG_ACK: u8 = 0x10;

/// The TCP header of a packet that starts at its IP header.
pub struct Tcp {
    /// Where the TCP header starts.
    pub at: u32,
    /// Where the payload starts.
    pub header_end: u32,
    pub source: Endpoint,
    pub destination: Endpoint,
    pub flags: u8,
    pub has_payload: bool,
}

/// `None` for anything but TCP, or with IPv6 extension headers.
#[inline(always)]
pub fn parse(ctx: &SkBuffContext) -> Option<Tcp> {
    let first: u8 = ctx.load(0).ok()?;
    let (offset, source, destination, length) = if first >> 4 == 4 {
        if ctx.load::<u8>(9).ok()? != IPPROTO_TCP {
            return None;
        }
        let source: u32 = ctx.load(12).ok()?;
        let destination: u32 = ctx.load(16).ok()?;
        (u32::from(first & 0xf) * 4, from_v4(source), from_v4(destination), ctx.len())
    } else {
        if ctx.load::<u8>(6).ok()? != IPPROTO_TCP {
            return None;
        }
        let source: [u32; 4] = ctx.load(8).ok()?;
        let destination: [u32; 4] = ctx.load(24).ok()?;
        (40, from_v6(source), from_v6(destination), ctx.len())
    };
    let at = offset as usize;
    let source_port: u16 = ctx.load(at).ok()?;
    let destination_port: u16 = ctx.load(at + 2).ok()?;
    let data_offset: u8 = ctx.load(at + 12).ok()?;
    let flags: u8 = ctx.load(at + 13).ok()?;
    let header_end = offset + u32::from(data_offset >> 4) * 4;
    Some(Tcp {
        at: offset,
        header_end,
        source: endpoint(source, u16::from_be(source_port)),
        destination: endpoint(destination, u16::from_be(destination_port)),
        flags,
        has_payload: length > header_end,
    })
}

impl Tcp {
    /// The sequence number of the first byte of payload; a SYN has one of its own before it.
    #[inline(always)]
    pub fn sequence(&self, ctx: &SkBuffContext) -> Option<u32> {
        let sequence: u32 = ctx.load(self.at as usize + 4).ok()?;
        Some(u32::from_be(sequence))
    }

    /// Whether it opens a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN
    }
}
