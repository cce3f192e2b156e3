//! What a cluster offers, from objects alone.
