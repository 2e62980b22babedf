package dev.sallyport.client;

import java.time.Instant;

/** Two bounds of the database's time. */
record TimeBounds(Instant lower, Instant upper) {}
