//! Who may do what: bearer tokens, and verbs that are forbidden.

use std::collections::HashSet;

use crate::answer::Failure;
use crate::double::USER;
use crate::resource::Resource;

/// Which tokens are good, and what is forbidden to who has one.
#[derive(Debug, Default)]
pub(crate) struct Access {
    pub tokens: HashSet<String>,
    pub forbidden: HashSet<(String, String)>,
}

impl Access {
    /// May this request be answered? Without a token it may not.
    pub fn check(
        &self,
        authorization: &str,
        subject: Option<(&str, &Resource, &str)>,
    ) -> Result<(), Failure> {
        let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
        if !self.tokens.contains(token) {
            return Err(Failure::unauthorized());
        }
        let Some((verb, resource, namespace)) = subject else { return Ok(()) };
        match self.forbidden.contains(&(verb.to_owned(), resource.plural.to_owned())) {
            true => Err(Failure::forbidden(USER, verb, resource, namespace)),
            false => Ok(()),
        }
    }
}
