//! Every load over loopback, against a real server.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use weft_bench::{
    client::Client,
    server,
    slice::{Cores, Load, Sample, Slice},
};

fn serve() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || server::serve(&listener, None));
    at
}

fn run(client: &mut Client, load: Load, cores: Cores) -> Sample {
    let slice = Slice {
        load,
        cores,
        millis: 50,
    };
    client.run(slice).unwrap()
}

#[test]
fn every_load_gives_a_sample_on_one_connection() {
    let mut client = Client::connect(serve()).unwrap();
    let loads = [
        Load::TcpRr { pairs: 1 },
        Load::TcpRr { pairs: 3 },
        Load::UdpRr { pairs: 1 },
        Load::UdpRr { pairs: 16 },
        Load::Crr,
        Load::Packets { size: 64 },
        Load::Bulk {
            streams: 1,
            reverse: false,
        },
        Load::Bulk {
            streams: 4,
            reverse: true,
        },
    ];
    for load in loads {
        for cores in [Cores::Any, Cores::Same(0)] {
            let sample = run(&mut client, load, cores);
            assert!(sample.count > 0 && sample.nanos > 0, "{load:?}: {sample:?}");
            assert!(sample.rate() > 0.0);
            let timed = matches!(load, Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr);
            assert_eq!(timed, sample.p50 > 0.0, "{load:?}: {sample:?}");
            assert!(sample.p50 <= sample.p99);
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_the_next_slice_runs() {
    let mut client = Client::connect(serve()).unwrap();
    let slice = Slice {
        load: Load::TcpRr { pairs: 0 },
        cores: Cores::Any,
        millis: 50,
    };
    let error = client.run(slice).unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    let core = Slice {
        load: Load::Crr,
        cores: Cores::Same(4095),
        ..slice
    };
    assert!(client.run(core).is_err());
    assert!(run(&mut client, Load::TcpRr { pairs: 1 }, Cores::Any).count > 0);
}

#[test]
fn nobody_there_is_said_with_the_remedy() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let error = Client::connect(at).err().unwrap().to_string();
    assert!(error.contains("weft bench --server"), "{error}");
}
