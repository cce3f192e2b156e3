//! Bytes that wait for a socket. An empty buffer owns no memory: an idle connection costs none.

use std::cell::RefCell;

/// Bytes read from a socket in one go.
pub const READ_SIZE: usize = 64 * 1024;
/// Buffers kept for reuse by each thread.
const SPARES: usize = 16;
/// A spare larger than this is given back to the allocator.
const MAX_SPARE: usize = 4 * READ_SIZE;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's scratch room of at least `size` bytes. Not to be nested.
pub fn with_scratch<T>(size: usize, f: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take();
    if scratch.len() < size {
        scratch.resize(size, 0);
    }
    let result = f(&mut scratch);
    SCRATCH.replace(scratch);
    result
}

/// A queue of bytes: appended at the end, consumed from the front.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// What waits.
    #[must_use]
    pub fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// What waits, to be changed in place.
    pub fn waiting_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }

    /// The vector to append to.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        &mut self.bytes
    }

    /// Drops `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Bytes of memory it owns.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Drops everything and gives the memory back.
    pub fn clear(&mut self) {
        self.start = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        if (1..=MAX_SPARE).contains(&bytes.capacity()) {
            bytes.clear();
            SPARE.with_borrow_mut(|spares| {
                if spares.len() < SPARES {
                    spares.push(bytes);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came_and_an_empty_buffer_owns_nothing() {
        let mut buffer = Buffer::default();
        buffer.tail().extend(b"hello ");
        buffer.tail().extend(b"world");
        buffer.consume(3);
        assert_eq!(buffer.waiting(), b"lo world");
        buffer.consume(100);
        assert!(buffer.is_empty());
        assert_eq!(buffer.bytes.capacity(), 0);
        buffer.tail().extend(b"again");
        assert_eq!(buffer.waiting(), b"again");
    }

    #[test]
    fn memory_is_used_again_but_a_large_spare_is_given_back() {
        let mut buffer = Buffer::default();
        buffer.tail().reserve_exact(MAX_SPARE + 1);
        buffer.clear();
        buffer.tail().reserve_exact(MAX_SPARE);
        assert_eq!(buffer.capacity(), MAX_SPARE);
        buffer.tail().extend([1; 10]);
        buffer.consume(10);
        assert_eq!(buffer.capacity(), 0);
        let mut other = Buffer::default();
        assert_eq!(other.tail().capacity(), MAX_SPARE, "the spare");
        assert!(other.is_empty());
        let buffers: Vec<Buffer> = (0..3 * SPARES).map(|_| Buffer::from(Vec::with_capacity(100))).collect();
        drop(buffers);
        assert_eq!(SPARE.with_borrow(Vec::len), SPARES);
    }

    #[test]
    fn scratch_room_is_lent_whole_and_grows() {
        assert!(with_scratch(10, |room| room.len() >= 10));
        assert!(with_scratch(100_000, |room| room.len() >= 100_000));
    }

    proptest::proptest! {
        #[test]
        fn it_is_a_queue(steps in proptest::collection::vec((0..40_usize, 0..60_usize), 0..40)) {
            let (mut buffer, mut model) = (Buffer::default(), std::collections::VecDeque::new());
            for (n, (append, consume)) in (0_u8..).zip(steps) {
                buffer.tail().extend(vec![n; append]);
                model.extend(vec![n; append]);
                buffer.consume(consume);
                model.drain(..consume.min(model.len()));
                assert!(buffer.waiting() == model.make_contiguous());
                assert_eq!(buffer.waiting_mut().len(), model.len());
                assert_eq!(buffer.is_empty(), model.is_empty());
            }
        }
    }
}
