//! A connection that a forged RST took from a client before its server was armed must not be recorded as a clean end.

use mtls_tests::could_not_run;
use mtls_tests::hold::why_not_direct;

use super::forged_rst::reset;

#[test]
fn a_forged_rst_to_the_client_before_it_is_armed_leaks_nothing_and_is_recorded() {
    if let Some(why) = why_not_direct() {
        return could_not_run(
            a_forged_rst_to_the_client_before_it_is_armed_leaks_nothing_and_is_recorded,
            why,
        );
    }
    reset(false);
}
