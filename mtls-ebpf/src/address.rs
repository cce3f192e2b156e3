//! Addresses as the contexts have them (network byte order words) and as the tables have them.

use mtls_common::Endpoint;

/// `::ffff:a.b.c.d` from a word in network byte order.
#[inline(always)]
pub fn from_v4(word: u32) -> [u8; 16] {
    let [a, b, c, d] = word.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The 16 bytes of four words in network byte order.
#[inline(always)]
pub fn from_v6(words: [u32; 4]) -> [u8; 16] {
    let [a0, a1, a2, a3] = words[0].to_ne_bytes();
    let [b0, b1, b2, b3] = words[1].to_ne_bytes();
    let [c0, c1, c2, c3] = words[2].to_ne_bytes();
    let [d0, d1, d2, d3] = words[3].to_ne_bytes();
    [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
}

/// The last word, in network byte order: the IPv4 address of an IPv4-mapped one.
#[inline(always)]
pub fn to_v4(address: &[u8; 16]) -> u32 {
    u32::from_ne_bytes([address[12], address[13], address[14], address[15]])
}

/// Four words in network byte order.
#[inline(always)]
pub fn to_v6(address: &[u8; 16]) -> [u32; 4] {
    let a = address;
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        to_v4(a),
    ]
}

/// Reads an IPv6 address of a context word by word: the verifier refuses a wider read.
///
/// # Safety
/// `ip` points into a context.
#[inline(always)]
pub unsafe fn words(ip: *const [u32; 4]) -> [u32; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            core::ptr::read_volatile(&raw const (*ip)[0]),
            core::ptr::read_volatile(&raw const (*ip)[1]),
            core::ptr::read_volatile(&raw const (*ip)[2]),
            core::ptr::read_volatile(&raw const (*ip)[3]),
        ]
    }
}

/// Writes an IPv6 address of a context word by word.
///
/// # Safety
/// `ip` points into a context, at a field that the program may write.
#[inline(always)]
pub unsafe fn set_words(ip: *mut [u32; 4], words: [u32; 4]) {
    // SAFETY: the caller's promise.
    unsafe {
        core::ptr::write_volatile(&raw mut (*ip)[0], words[0]);
        core::ptr::write_volatile(&raw mut (*ip)[1], words[1]);
        core::ptr::write_volatile(&raw mut (*ip)[2], words[2]);
        core::ptr::write_volatile(&raw mut (*ip)[3], words[3]);
    }
}

/// A port from the low half of a word in network byte order (`bpf_sock_addr.user_port`).
#[inline(always)]
pub fn port_from_network(word: u32) -> u16 {
    u16::from_be(word as u16)
}

#[inline(always)]
pub fn endpoint(address: [u8; 16], port: u16) -> Endpoint {
    Endpoint { address, port, reserved: 0 }
}

/// What nobody comes to from outside.
#[inline(always)]
pub fn is_loopback(address: &[u8; 16]) -> bool {
    if mtls_common::socket::is_ipv4(address) {
        return address[12] == 127;
    }
    to_v6(address) == [0, 0, 0, 1u32.to_be()]
}

/// Loopback, unspecified (which connect() takes for loopback), link-local, multicast and limited broadcast:
/// never a workload's address (RFC 6890). The configuration refuses the same ones.
#[inline(always)]
pub fn is_always_excluded(address: &[u8; 16]) -> bool {
    if mtls_common::socket::is_ipv4(address) {
        let (a, b) = (address[12], address[13]);
        let word = to_v4(address);
        return a == 127 || word == 0 || word == u32::MAX || a & 0xf0 == 224 || (a == 169 && b == 254);
    }
    let words = to_v6(address);
    let last = u32::from_be(words[3]);
    let zero_prefix = words[0] == 0 && words[1] == 0 && words[2] == 0;
    (zero_prefix && last <= 1) || address[0] == 0xff || (address[0] == 0xfe && address[1] & 0xc0 == 0x80)
}
