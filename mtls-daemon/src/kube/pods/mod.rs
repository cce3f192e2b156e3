//! What pods are for mtlsd: which are enrolled and how, where their processes are, and whose an address is. Decided from objects
//! alone, without a look at the node.

mod cgroups;
mod enrolment;
mod owners;

pub use self::cgroups::{cgroups, roots};
pub use self::enrolment::{Asked, Enrolment, MODE, Out, Undecided, enrolment, identity};
pub use self::owners::owners;

#[cfg(test)]
pub(crate) mod testing {
    use serde_json::Value;

    use crate::kube::objects::{Kind, Read, read};

    /// An object that is fine.
    pub fn good<K: Kind>(object: &Value) -> K {
        match read(&object.to_string()) {
            Read::Good(object) => object,
            Read::Bad(_, why) | Read::Nameless(why) => panic!("{why}"),
        }
    }
}
