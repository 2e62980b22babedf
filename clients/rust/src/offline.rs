const LONGEST: usize = 4096;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CRC_DIGITS: usize = 6;
/// Kid, tag, secret and CRC-32.
const BODY: usize = 58;

/// The prefixes whose strings have a checksum, unless a checker is told others.
pub const CHECKED_PREFIXES: &[&str] = &["sp_"];

/// True if a string cannot be a live token, so that no server need be asked.
pub fn refused_offline<P: AsRef<str>>(token: &str, checked_prefixes: &[P]) -> bool {
    if token.is_empty() || token.len() > LONGEST {
        return true;
    }
    checked_prefixes.iter().any(|prefix| token.starts_with(prefix.as_ref())) && !has_shape(token.as_bytes())
}

/// True for `[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{58}` with the right checksum.
fn has_shape(token: &[u8]) -> bool {
    let Some(bar) = token.len().checked_sub(BODY + 1) else { return false };
    if !(2..=16).contains(&bar) || token[bar] != b'_' || !token[0].is_ascii_lowercase() {
        return false;
    }
    let prefix = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'_';
    if !token[..bar].iter().all(prefix) || !token[bar + 1..].iter().all(u8::is_ascii_alphanumeric) {
        return false;
    }
    let (rest, stated) = token.split_at(token.len() - CRC_DIGITS);
    let mut crc = crc32fast::hash(rest);
    stated.iter().rev().all(|&digit| {
        let right = DIGITS[(crc % 62) as usize] == digit;
        crc /= 62;
        right
    })
}
