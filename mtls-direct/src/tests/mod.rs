mod client;
mod half;
mod parts;
mod properties;
mod server;

use crate::*;

pub(crate) type In = Input<u32>;
pub(crate) type Out = Action<u32>;

pub(crate) const SERVER: Nonce = Nonce([2; 16]);
pub(crate) const DUP: u32 = 5;

pub(crate) fn id() -> ConnectionId {
    let tuple =
        FourTuple { client: "10.0.0.1:40000".parse().unwrap(), server: "10.0.0.2:443".parse().unwrap() };
    ConnectionId { tuple, nonce: Nonce([1; 16]) }
}

pub(crate) fn message(body: Body) -> Message {
    Message { id: id(), body }
}

pub(crate) fn peer(body: Body) -> In {
    Input::Peer(message(body))
}

pub(crate) fn send(body: Body) -> Out {
    Action::Send(message(body))
}

pub(crate) fn counts(sent: u64, received: u64) -> Counts {
    Counts { sent, received }
}

pub(crate) fn install() -> Out {
    Action::Install { descriptor: DUP, client: id().nonce, server: SERVER }
}

/// What a failure by this side leaves to do; `first` is what the state holds.
pub(crate) fn failure(first: Vec<Out>, reason: Reason, told: bool) -> Vec<Out> {
    let mut actions = first;
    if told {
        actions.push(send(Body::Abort(reason)));
    }
    if reason.speaks_against_direct() {
        actions.push(Action::Remember(reason));
    }
    actions.push(Action::Report(Outcome::Failed(By::Us, reason)));
    actions
}

pub(crate) fn by_peer(first: Vec<Out>, reason: Reason) -> Vec<Out> {
    let mut actions = first;
    if reason.speaks_against_direct() {
        actions.push(Action::Remember(reason));
    }
    actions.push(Action::Report(Outcome::Failed(By::Peer, reason)));
    actions
}

/// A client that has taken these inputs, none of them ignored.
pub(crate) fn client(inputs: &[In], early_release: bool) -> Client<u32> {
    let (mut client, actions) = Client::new(id(), early_release);
    assert_eq!(actions, [Action::Duplicate]);
    for &input in inputs {
        assert_eq!(client.step(input).ignored, None, "{input:?} in {:?}", client.state());
    }
    client
}

/// The same for a server.
pub(crate) fn server(inputs: &[In]) -> Server<u32> {
    let (mut server, actions) = Server::new(id());
    assert_eq!(actions, [Action::Decide]);
    for &input in inputs {
        assert_eq!(server.step(input).ignored, None, "{input:?} in {:?}", server.state());
    }
    server
}
