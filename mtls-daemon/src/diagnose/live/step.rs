//! The questions, in the order in which they are asked.

use serde::{Deserialize, Serialize};

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $question:literal;)*) => {
        /// A question of the decision tree.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Question {
            $($(#[$doc])* $name,)*
        }

        impl Question {
            /// Every one, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in JSON.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// As people ask it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $question,)* }
            }
        }
    };
}

questions! {
    /// Enrolled, or at least there.
    Workload = "workload", "Is the workload here?";
    /// Of a name.
    Address = "address", "Which address is it?";
    /// The directory, exclusions and modes.
    Destination = "destination", "Who should be there?";
    /// The own certificate.
    Identity = "identity", "Have we a certificate?";
    /// What is denied whatever the server proves.
    ConnectPolicy = "connect-policy", "May we connect at all?";
    /// connect().
    Tcp = "tcp", "Is it reachable over TCP?";
    /// ServerHello.
    Tls = "tls", "Does it speak TLS?";
    /// CertificateRequest.
    ClientCertificate = "client-certificate", "Does it ask for our certificate?";
    /// Certificate.
    TheirCertificate = "their-certificate", "Who does it say it is?";
    /// Key usage, extended key usage, basic constraints.
    KeyUsage = "key-usage", "May its certificate be a server's?";
    /// A root of this node.
    TrustedHere = "trusted-here", "Is it trusted here?";
    /// Validity of the whole chain.
    Validity = "validity", "Is it valid now?";
    /// Deny list, CRL, OCSP.
    Revocation = "revocation", "Is it revoked?";
    /// The directory's SPIFFE ID.
    Name = "name", "Is it the one that is expected?";
    /// CertificateVerify.
    Key = "key", "Does it hold the key of its certificate?";
    /// Outbound policy, now that it is proven who it is.
    PolicyHere = "policy-here", "Does our policy allow it?";
    /// What it says to our certificate.
    TrustedThere = "trusted-there", "Are we trusted there?";
    /// Inbound policy of the other node.
    PolicyThere = "policy-there", "Does its policy allow us?";
    /// Behind the server's mtlsd.
    Application = "application", "Does the application take the connection?";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_a_code_of_its_own_which_is_its_name_in_json() {
        let mut codes = std::collections::HashSet::new();
        for question in Question::ALL {
            assert!(codes.insert(question.code()));
            assert!(question.text().ends_with('?'));
            let json = serde_json::to_string(question).unwrap();
            assert_eq!(json, format!("{:?}", question.code()));
        }
    }
}
