//! As `direct_attack`, over IPv6.

#[path = "direct_attack/all.rs"]
mod all;

const V6: bool = true;
