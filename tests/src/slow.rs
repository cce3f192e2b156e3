//! A slow machine (a guest whose processor is emulated) gets more time and less work, by two factors from outside.

use std::time::Duration;

/// Limits of time are multiplied by this whole number.
const SLOW: &str = "MTLSD_TEST_SLOW";
/// Heavy work (gigabytes, thousands of connections) is divided by this whole number.
const LIGHT: &str = "MTLSD_TEST_LIGHT";

/// A time limit of this many seconds on a machine that is not slow.
pub fn limit(seconds: u64) -> Duration {
    stretched(Duration::from_secs(seconds))
}

/// A time that is meant for a machine that is not slow, as it is here.
pub fn stretched(time: Duration) -> Duration {
    time.saturating_mul(u32::try_from(factor(SLOW)).unwrap_or(u32::MAX))
}

/// An amount of heavy work, made lighter, but at least `least`.
pub fn scaled(amount: u64, least: u64) -> u64 {
    (amount / factor(LIGHT)).max(least)
}

/// Whether tests that wait as long as the issue says, rather than long enough, were asked for: `MTLSD_TEST_LONG`.
pub fn long() -> bool {
    std::env::var_os("MTLSD_TEST_LONG").is_some()
}

/// # Panics
/// If the variable is set to something that is not a whole number above 0: a typing error must not pass as 1.
fn factor(name: &str) -> u64 {
    match std::env::var(name) {
        Err(_) => 1,
        Ok(text) => parse(&text).unwrap_or_else(|| panic!("{name}={text} is not a whole number above 0")),
    }
}

fn parse(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_a_whole_number_above_zero() {
        assert_eq!(parse("8"), Some(8));
        for wrong in ["", "0", "-1", "1.5", "eight"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn work_is_never_less_than_what_the_test_needs() {
        assert_eq!(scaled(0, 7), 7);
        assert!(scaled(1000, 7) <= 1000);
        assert!(limit(1) >= Duration::from_secs(1));
    }
}
