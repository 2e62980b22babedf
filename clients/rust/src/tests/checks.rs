use tonic::Status;

use super::*;
use crate::validator::{Answer, Validator};

/// A server by hand: one answer for every check, and a feed with one lease.
pub(super) struct Server {
    answer: pb::ValidateTokenResponse,
    asked: Mutex<Vec<pb::ValidateTokenRequest>>,
}

const EPOCH: [u8; 3] = [0, 200, 255];

fn now() -> Option<prost_types::Timestamp> {
    Some(std::time::SystemTime::now().into())
}

impl Validator for Server {
    fn validate(&self, request: pb::ValidateTokenRequest) -> Answer<pb::ValidateTokenResponse> {
        self.asked.lock().unwrap().push(request);
        let answer = self.answer.clone();
        Box::pin(async { Ok(answer) })
    }

    fn watch(&self, request: pb::WatchChangesRequest) -> Answer<pb::WatchChangesResponse> {
        Box::pin(async move {
            if request.leaving {
                return Err(Status::cancelled("left"));
            }
            if !request.epoch.is_empty() {
                std::future::pending::<()>().await;
            }
            Ok(pb::WatchChangesResponse {
                sequence: request.sequence,
                epoch: EPOCH.to_vec(),
                position: 5,
                floor: 5,
                lease: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
                time_lower: now(),
                time_upper: now(),
                ..Default::default()
            })
        })
    }
}

fn server(verdict: pb::Verdict, token: Option<pb::ValidatedToken>) -> Arc<Server> {
    let entry = pb::CacheEntry { epoch: EPOCH.to_vec(), position: 5, tags: vec![7], not_before_time: None };
    let answer = pb::ValidateTokenResponse { verdict: verdict.into(), token, entry: Some(entry), ..Default::default() };
    Arc::new(Server { answer, asked: Mutex::default() })
}

async fn leased(server: Arc<Server>) -> Arc<Checker> {
    let (told, mut lease) = tokio::sync::mpsc::unbounded_channel();
    let hooks = Hooks { lease: Some(Box::new(move |_| _ = told.send(()))), ..Hooks::default() };
    let checker = Checker::with(server, Options { feed: true, hooks, ..Options::default() });
    lease.recv().await;
    checker
}

#[tokio::test]
async fn tenants() {
    for case in cases(&vectors("tenant")) {
        let answer = &case["answer"];
        let name = format!("VERDICT_{}", text(&answer["verdict"]));
        let token = answer["token"].as_object().map(|token| pb::ValidatedToken {
            id: "tok_1".into(),
            tenant: text(&token["tenant"]),
            tenants: texts(&token["tenants"]),
            ..Default::default()
        });
        let server = server(pb::Verdict::from_str_name(&name).unwrap(), token);
        let checker = leased(server.clone()).await;
        let requirement = requirement(case);
        for _ in 0..2 {
            let check = checker.check("opaque", &requirement, &Origin::default()).await;
            assert_eq!(check.verdict.name(), case["verdict"], "{case}");
            assert_eq!(check.identity.is_some(), check.verdict == Verdict::Allow, "{case}");
            assert_eq!(check.entry.is_some(), case["entry"], "{case}");
        }
        checker.close().await;
        let asked = server.asked.lock().unwrap();
        assert_eq!(asked.len() as u64, case["calls"].as_u64().unwrap(), "{case}");
        assert!(asked.iter().all(|request| request.tenant == requirement.tenant), "{case}");
    }
}

#[tokio::test]
async fn without_a_server_a_check_is_undetermined_within_its_time() {
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{place}")).unwrap();
    let checker = Checker::new(endpoint, Options::default()).unwrap();
    let check = checker.check("opaque", &Requirement::default(), &Origin::default()).await;
    assert_eq!(check.verdict, Verdict::Undetermined);
}

/// `cargo test --release -- --ignored --nocapture cost` prints the cost of a check that the cache answers.
#[tokio::test]
#[ignore = "a benchmark"]
async fn cost() {
    let token = cases(&vectors("offline"))
        .iter()
        .find(|case| case["refused"] == false && text(&case["token"]).len() > 60)
        .map(|case| text(&case["token"]))
        .unwrap();
    let live = pb::ValidatedToken {
        id: "tok_1".into(),
        tenant: "default".into(),
        principal: "user:ann".into(),
        scopes: vec!["orders.read".into(), "billing.*".into()],
        ..Default::default()
    };
    let checker = leased(server(pb::Verdict::Allow, Some(live))).await;
    let (requirement, origin) = (Requirement::scopes(["orders.read"]), Origin::default());
    const CALLS: u32 = 200_000;
    for _ in 0..7 {
        // An entry lives for a minute; a round is shorter.
        checker.check(&token, &requirement, &origin).await;
        let begun = std::time::Instant::now();
        for _ in 0..CALLS {
            let check = checker.check(&token, &requirement, &origin).await;
            assert!(check.verdict == Verdict::Allow);
        }
        let check = begun.elapsed() / CALLS;
        let begun = std::time::Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(Sha256::digest(std::hint::black_box(&token)));
        }
        println!("check {} ns, hash {} ns", check.as_nanos(), (begun.elapsed() / CALLS).as_nanos());
    }
}
