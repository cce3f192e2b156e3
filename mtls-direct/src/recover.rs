//! What a daemon does about connections for which it has no machine.
use crate::{Body, Message, Reason};

/// What the kernel's maps say of an enrolled socket when a daemon starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The writer is still held: nobody will ever arm it.
    Held,
    /// The writer was let go: keys, guard and socket need no daemon.
    Released,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// SOCK_DESTROY.
    Destroy,
    /// Leave it alone.
    Keep,
}

/// The rule of a start: held sockets are destroyed, released ones kept.
pub fn recover(mark: Mark) -> Recovery {
    match mark {
        Mark::Held => Recovery::Destroy,
        Mark::Released => Recovery::Keep,
    }
}

/// The answer to a message about a connection that this daemon does not know, after a restart for example.
pub fn stray(message: Message) -> Option<Message> {
    match message.body {
        // `Open` makes a new machine; the others need no answer, or two daemons would answer each other for ever.
        Body::Open | Body::Refuse(_) | Body::Abort(_) | Body::Closed(_) => None,
        Body::Accept(_) | Body::Ready => Some(Message { id: message.id, body: Body::Abort(Reason::Unknown) }),
    }
}
