//! What can go wrong in the core, with the facts that a caller needs to say so.

/// Every error of the core. Paths are added where the error is shown, because callers name files in their own way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The operating system refused a call.
    #[error("{call}: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The error number of the C library.
        errno: i32,
        /// The call that failed.
        call: &'static str,
    },
    /// Bytes given to a call are not whole, valid frames.
    #[error("not a valid frame at offset {offset}: {reason}")]
    Frame {
        /// What is wrong, in words.
        reason: String,
        /// Where, within the bytes given.
        offset: u64,
    },
    /// Bytes of a file that were durable are damaged or missing.
    #[error("damaged: {reason}")]
    Corrupt {
        /// What is wrong, in words.
        reason: String,
        /// Where in the file, if known.
        offset: Option<u64>,
        /// The first LSN in doubt, if known.
        first_lsn: Option<u64>,
        /// The last LSN in doubt, if known.
        last_lsn: Option<u64>,
    },
    /// A payload is above the limit.
    #[error("a payload of {size} bytes is above the limit of {limit} bytes")]
    PayloadTooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
        /// Its place in a list of records.
        index: Option<usize>,
    },
    /// An LSN is not above the one before it.
    #[error("LSN {lsn} is not above the last LSN {last_lsn}")]
    LsnOrder {
        /// The LSN given.
        lsn: u64,
        /// The one before it.
        last_lsn: u64,
        /// Its place in a list of records.
        index: Option<usize>,
    },
    /// A term is below the current one.
    #[error("term {term} is below the current term {current_term}")]
    StaleTerm {
        /// The term given.
        term: u64,
        /// The current one.
        current_term: u64,
        /// Its place in a list of records.
        index: Option<usize>,
    },
    /// A sync failed earlier, so nothing written since can be trusted.
    #[error("an earlier flush failed: {reason}")]
    Poisoned {
        /// What failed, in words.
        reason: String,
    },
    /// The object was closed, or is the copy of a forked child.
    #[error("closed")]
    Closed,
    /// Bytes given to a codec are not what it writes.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, in words.
        reason: String,
    },
}

/// What every fallible function of the core returns.
pub type Result<T, E = CoreError> = std::result::Result<T, E>;

impl CoreError {
    /// The error that the C library just left in `errno`.
    pub fn last_os(call: &'static str) -> Self {
        Self::Os { errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO), call }
    }

    /// Adds the place in a list of records to those errors that have one.
    #[must_use]
    pub fn at_index(mut self, place: usize) -> Self {
        if let Self::PayloadTooLarge { index, .. } | Self::LsnOrder { index, .. } | Self::StaleTerm { index, .. } =
            &mut self
        {
            *index = Some(place);
        }
        self
    }
}
