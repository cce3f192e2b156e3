//! What a peer may do for nothing: every record costs us a decryption, and every KeyUpdate a key.

use super::ChannelError;

/// KeyUpdates that a peer may send without application data between them, as in rustls.
const MAX_KEY_UPDATES: u32 = 32;
/// Empty records that a peer may send one after another, as in rustls.
const MAX_EMPTY_RECORDS: u32 = 32;

/// What came since the last application data.
#[derive(Debug, Default)]
pub struct Tally {
    key_updates: u32,
    empty_records: u32,
}

impl Tally {
    /// Application data came.
    pub fn data(&mut self) {
        *self = Self::default();
    }

    /// An empty record came.
    ///
    /// # Errors
    /// When there were too many.
    pub fn empty_record(&mut self) -> Result<(), ChannelError> {
        self.empty_records += 1;
        if self.empty_records > MAX_EMPTY_RECORDS {
            return Err(ChannelError::TooManyEmptyRecords(self.empty_records));
        }
        Ok(())
    }

    /// A KeyUpdate came.
    ///
    /// # Errors
    /// When there were too many.
    pub fn key_update(&mut self) -> Result<(), ChannelError> {
        self.key_updates += 1;
        if self.key_updates > MAX_KEY_UPDATES {
            return Err(ChannelError::TooManyKeyUpdates(self.key_updates));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_33rd_in_a_row_is_one_too_many_and_data_begins_anew() {
        let mut tally = Tally::default();
        for _ in 0..2 {
            for _ in 0..MAX_KEY_UPDATES {
                tally.key_update().unwrap();
                tally.empty_record().unwrap();
            }
            tally.data();
        }
        for _ in 0..MAX_KEY_UPDATES {
            tally.key_update().unwrap();
            tally.empty_record().unwrap();
        }
        assert!(matches!(tally.key_update(), Err(ChannelError::TooManyKeyUpdates(33))));
        assert!(matches!(tally.empty_record(), Err(ChannelError::TooManyEmptyRecords(33))));
    }
}
