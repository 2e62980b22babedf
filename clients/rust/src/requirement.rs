use std::collections::HashMap;

/// What a method demands of a token. The default demands a live token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// A public method needs no token; the other fields are ignored.
    pub public: bool,
    /// Scopes that the token must have, all of them; exact scopes, at most 32.
    pub scopes: Vec<String>,
    /// The audience that must be among the token's, unless the token has none. Empty: no audience.
    pub audience: String,
    /// The tenant in which the token must be live: its own, or one that it is attached to. Empty: any.
    pub tenant: String,
}

impl Requirement {
    pub fn public() -> Self {
        Self { public: true, ..Self::default() }
    }

    pub fn scopes<const N: usize>(scopes: [&str; N]) -> Self {
        Self { scopes: scopes.map(String::from).to_vec(), ..Self::default() }
    }
}

/// The requirements of methods. A method that is not listed needs a live token; only health checks are public by
/// themselves.
#[derive(Clone, Debug, Default)]
pub struct Requirements(HashMap<String, Requirement>);

impl Requirements {
    /// Each key is a full method (`orders.v1.Orders/Get`), or all methods of a service (`orders.v1.Orders/*`). An error
    /// says which key is no method, or which requirement the server would refuse.
    pub fn new<K: Into<String>>(rules: impl IntoIterator<Item = (K, Requirement)>) -> Result<Self, String> {
        let rules: HashMap<String, Requirement> = rules.into_iter().map(|(key, rule)| (key.into(), rule)).collect();
        for (method, rule) in &rules {
            if !is_method(method) {
                return Err(format!("{method:?} is no method: write package.Service/Method or package.Service/*"));
            }
            if rule.scopes.len() > 32 {
                return Err(format!("{method} requires more than 32 scopes"));
            }
            if rule.audience.len() > 256 {
                return Err(format!("{method} requires an audience of more than 256 characters"));
            }
            if rule.tenant.len() > 63 {
                return Err(format!("{method} requires a tenant of more than 63 characters"));
            }
        }
        Ok(Self(rules))
    }

    /// The requirement of a method, with or without a slash before it.
    pub fn of(&self, method: &str) -> Requirement {
        let name = method.strip_prefix('/').unwrap_or(method);
        let service = name.split('/').next().unwrap_or_default();
        if let Some(rule) = self.0.get(name).or_else(|| self.0.get(&format!("{service}/*"))) {
            return rule.clone();
        }
        Requirement { public: service == "grpc.health.v1.Health", ..Requirement::default() }
    }
}

/// True for `[A-Za-z_][\w.]*/(\*|[A-Za-z_]\w*)`.
fn is_method(key: &str) -> bool {
    let Some((service, method)) = key.split_once('/') else { return false };
    let word = |text: &str, more: fn(char) -> bool| {
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || more(c))
    };
    word(service, |c| c == '.') && (method == "*" || word(method, |_| false))
}
