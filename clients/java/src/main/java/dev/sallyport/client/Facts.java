package dev.sallyport.client;

import java.time.Instant;
import java.util.List;

/** What a cached token is judged by. A time that is null is no limit. */
record Facts(List<String> scopes, List<String> audiences, Instant expire, Instant notBefore) {}
