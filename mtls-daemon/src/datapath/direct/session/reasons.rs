//! The numbers of reasons on the wire. A number is never used again for another reason.

use mtls_direct::Reason;

/// Both directions from one table, which the compiler holds to be complete.
macro_rules! table {
    ($($number:literal => $reason:ident,)+) => {
        pub(super) fn number(reason: Reason) -> u8 {
            match reason {
                $(Reason::$reason => $number,)+
            }
        }

        pub(super) fn reason(number: u8) -> Option<Reason> {
            match number {
                $($number => Some(Reason::$reason),)+
                _ => None,
            }
        }
    };
}

table! {
    1 => Denied,
    2 => NotCapable,
    3 => NoDescriptor,
    4 => NoKernelTls,
    5 => NotEmptied,
    6 => NotReleased,
    7 => NoAnswer,
    8 => NoHandshake,
    9 => NotAccepted,
    10 => ArmingTimeout,
    11 => PeerNotReady,
    12 => SessionLost,
    13 => ApplicationGone,
    14 => SocketEnded,
    15 => LeaseEnded,
    16 => Protocol,
    17 => Recovered,
    18 => Unknown,
    19 => Busy,
    20 => NotEstablished,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_one_reason_and_stays_it() {
        let known: Vec<(u8, Reason)> = (0..=u8::MAX).filter_map(|n| Some((n, reason(n)?))).collect();
        assert_eq!(known.len(), 20);
        assert!(known.iter().all(|(n, reason)| number(*reason) == *n), "{known:?}");
        // What other versions of the daemon know them by.
        assert_eq!(
            (number(Reason::Denied), number(Reason::SessionLost), number(Reason::Unknown)),
            (1, 12, 18)
        );
        assert_eq!((reason(0), reason(21)), (None, None));
    }
}
