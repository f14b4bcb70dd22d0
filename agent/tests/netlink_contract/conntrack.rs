//! Conntrack, of the kernel: there is no stand-in.

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use futures::StreamExt;
use tokio::time::timeout;
use weft::netlink::conntrack::{self, ConntrackEvent, Tracked, Tuple};

use super::netns::{in_fresh_netns, run};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Has the namespace track connections, with the source of those to 127.0.0.9 rewritten.
fn track() {
    run("ip link set lo up");
    run("iptables -t nat -A POSTROUTING -d 127.0.0.9 -j SNAT --to-source 127.0.0.5");
}

/// Sends to a socket there and back, and returns both ports.
fn exchange(to: &str) -> (u16, u16) {
    let server = UdpSocket::bind((to, 0)).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = [0; 16];
    client
        .send_to(b"ping", server.local_addr().unwrap())
        .unwrap();
    let (_, seen) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"pong", seen).unwrap();
    client.recv_from(&mut buffer).unwrap();
    let ports = [client, server].map(|socket| socket.local_addr().unwrap().port());
    (ports[0], ports[1])
}

async fn only_of(protocol: u8) -> Tracked {
    let all = conntrack::dump().await.unwrap();
    let mut found = all
        .into_iter()
        .filter(|tracked| tracked.protocol == protocol);
    let first = found.next().unwrap();
    assert_eq!(found.next(), None);
    first
}

#[test]
fn a_connection_is_seen_and_its_end_told() {
    in_fresh_netns(|| async {
        track();
        assert_eq!(conntrack::dump().await.unwrap(), []);
        let mut ends = conntrack::destroyed().unwrap();
        let (client, server) = exchange("127.0.0.1");
        let local = "127.0.0.1".parse().unwrap();
        let original = Tuple {
            source: local,
            destination: local,
            source_port: client,
            destination_port: server,
        };
        let want = Tracked {
            protocol: UDP,
            original,
            reply: Tuple {
                source_port: server,
                destination_port: client,
                ..original
            },
            natted: false,
            settled: false,
        };
        assert_eq!(only_of(UDP).await, want);
        assert!(conntrack::delete(&want).await.unwrap());
        let event = timeout(Duration::from_secs(5), ends.next()).await.unwrap();
        assert_eq!(event, Some(ConntrackEvent::Destroyed(want)));
        assert!(!conntrack::delete(&want).await.unwrap());
        assert_eq!(conntrack::dump().await.unwrap(), []);
    });
}

#[test]
fn nat_is_told() {
    in_fresh_netns(|| async {
        track();
        let (client, server) = exchange("127.0.0.9");
        let found = only_of(UDP).await;
        assert!(found.natted);
        assert_eq!(found.original.source.to_string(), "127.0.0.1");
        assert_eq!(found.reply.destination.to_string(), "127.0.0.5");
        assert_eq!(found.original.source_port, client);
        assert_eq!(found.reply.source_port, server);
    });
}

#[test]
fn an_echo_has_its_identifier_in_both_ports() {
    in_fresh_netns(|| async {
        track();
        run("ping -c 1 -W 1 127.0.0.1");
        let found = only_of(ICMP).await;
        assert_ne!(found.original.source_port, 0);
        assert_eq!(found.original.source_port, found.original.destination_port);
        assert_eq!(found.reply.source_port, found.original.source_port);
        assert!(conntrack::delete(&found).await.unwrap());
        assert_eq!(conntrack::dump().await.unwrap(), []);
    });
}

#[test]
fn lost_events_are_told() {
    in_fresh_netns(|| async {
        track();
        let mut ends = conntrack::destroyed().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in 1..=20_000_u16 {
            // Nobody listens there, which is what a send after the first is told of.
            drop(client.send_to(b"ping", ("127.0.0.1", port)));
        }
        let tracked = conntrack::dump().await.unwrap();
        assert!(tracked.len() >= 20_000, "{}", tracked.len());
        for tracked in &tracked {
            assert!(conntrack::delete(tracked).await.unwrap());
        }
        let mut told = 0;
        loop {
            let event = timeout(Duration::from_secs(5), ends.next()).await.unwrap();
            match event.unwrap() {
                ConntrackEvent::Destroyed(_) => told += 1,
                ConntrackEvent::Overrun => break,
            }
        }
        assert!(told < tracked.len());
        // Those that still fit are told after all, and so is what ends from now on.
        let (client, server) = exchange("127.0.0.1");
        let fresh = conntrack::dump().await.unwrap();
        let fresh = fresh
            .iter()
            .find(|tracked| tracked.original.source_port == client);
        let fresh = *fresh.unwrap();
        assert_eq!(fresh.original.destination_port, server);
        // The socket takes nothing new before it has been emptied.
        while let Ok(event) = timeout(Duration::from_millis(200), ends.next()).await {
            assert!(event.is_some());
        }
        assert!(conntrack::delete(&fresh).await.unwrap());
        let event = timeout(Duration::from_secs(5), ends.next()).await.unwrap();
        assert_eq!(event, Some(ConntrackEvent::Destroyed(fresh)));
    });
}

#[test]
fn only_an_established_connection_that_nobody_marks_is_settled() {
    in_fresh_netns(|| async {
        track();
        let connect = || {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let port = client.local_addr().unwrap().port();
            (server, client, port)
        };
        let find = |port: u16| async move {
            let all = conntrack::dump().await.unwrap();
            let mut all = all.into_iter();
            all.find(|tracked| tracked.protocol == TCP && tracked.original.source_port == port)
                .unwrap()
        };
        let (server, client, port) = connect();
        let found = find(port).await;
        assert!(found.settled && !found.natted, "{found:?}");
        let looked = conntrack::find(TCP, &found.reply).await.unwrap();
        assert_eq!(looked, Some(found));
        // Closing: the rest of it is conntrack's to see.
        let (accepted, _) = server.accept().unwrap();
        drop(client);
        drop(accepted);
        assert!(!find(port).await.settled);

        run("iptables -t mangle -A OUTPUT -p tcp -j CONNMARK --set-mark 7");
        let (_server, _client, port) = connect();
        let found = find(port).await;
        assert!(!found.settled, "{found:?}");
    });
}
