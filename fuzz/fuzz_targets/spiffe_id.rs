//! Text to SPIFFE IDs and trust domains: what is taken is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::identity::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.as_str(), text);
        assert!(text.starts_with("spiffe://") && text.len() <= 2048);
        let domain = id.trust_domain().as_str();
        assert_eq!(format!("spiffe://{domain}{}", id.path()), text);
        assert_eq!(domain.parse::<TrustDomain>().as_ref(), Ok(id.trust_domain()));
    }
    if let Ok(domain) = text.parse::<TrustDomain>() {
        assert_eq!(domain.as_str(), text);
        assert!(format!("spiffe://{text}/w").parse::<SpiffeId>().is_ok());
    }
});
