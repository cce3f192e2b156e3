//! Times as people read them in a refusal: an RFC 3339 instant and a rounded span.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How much too early a certificate may be used: its issuer's clock may be ahead of ours.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Seconds since 1970 (negative before) as a `SystemTime`; the epoch if it cannot be represented.
pub(crate) fn from_unix(seconds: i64) -> SystemTime {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) };
    time.unwrap_or(UNIX_EPOCH)
}

/// The time of a certificate or of rustls; the epoch if it cannot be represented.
pub(crate) fn from_pki(time: UnixTime) -> SystemTime {
    from_unix(i64::try_from(time.as_secs()).unwrap_or(0))
}

/// Whole seconds since 1970; `None` before 1970 or too far ahead.
pub(crate) fn to_unix(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// `2026-11-22T11:02:37Z`, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    to_unix(time)
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "a time outside the calendar".to_owned())
}

/// The largest unit that fits, rounded down: `45 s`, `3 min`, `5 h`, `12 d`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long `later` is after `earlier`; zero if it is not.
pub(crate) fn between(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

/// `expired 3 min ago (2026-11-22T11:02:37Z)`.
pub(crate) fn expired(not_after: SystemTime, now: SystemTime) -> String {
    format!("expired {} ago ({})", span(between(not_after, now)), rfc3339(not_after))
}

/// `not yet valid by 37 s (from 2026-11-22T11:02:37Z)`.
pub(crate) fn not_yet(not_before: SystemTime, now: SystemTime) -> String {
    format!("not yet valid by {} (from {})", span(between(now, not_before)), rfc3339(not_before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_take_the_largest_unit_that_fits() {
        for (seconds, want) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_599, "59 min"), (7_200, "2 h"), (172_800, "2 d")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn instants_are_written_in_utc_and_extremes_do_not_panic() {
        assert_eq!(rfc3339(from_unix(1_795_345_357)), "2026-11-22T11:02:37Z");
        assert_eq!(rfc3339(from_unix(-5)), "a time outside the calendar");
        for extreme in [i64::MIN, i64::MAX] {
            assert!(rfc3339(from_unix(extreme)).contains("calendar"));
        }
    }

    #[test]
    fn expiry_is_told_with_both_the_span_and_the_instant() {
        let then = from_unix(1_795_345_357);
        let later = then + Duration::from_secs(200);
        assert_eq!(expired(then, later), "expired 3 min ago (2026-11-22T11:02:37Z)");
        assert_eq!(not_yet(later, then), "not yet valid by 3 min (from 2026-11-22T11:05:57Z)");
    }
}
