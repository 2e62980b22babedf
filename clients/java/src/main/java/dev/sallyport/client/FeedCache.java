package dev.sallyport.client;

import com.google.protobuf.ByteString;
import java.time.Instant;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongSupplier;

/**
 * The cache of a client that follows the change feed. Nothing in it is used without a lease, and nothing that a change has
 * reached. The clock is monotonic, counts nanoseconds and begins anywhere.
 */
final class FeedCache {
  private static final int MAX_ENTRIES = 10_000;
  private static final int MAX_TAGS = 100_000;
  private static final long SECOND = 1_000_000_000L;
  /** Absolute: so the server's record of last use is exact to a minute. */
  private static final long ENTRY_LIFE = 60 * SECOND;

  private static final long REFUSAL_LIFE = 5 * SECOND;
  private static final long NO_LEASE = Long.MIN_VALUE;

  private record Kept<T>(T value, long since) {}

  private final LongSupplier mono;
  private final Set<Runnable> watchers = ConcurrentHashMap.newKeySet();
  private final ReentrantLock lock = new ReentrantLock();
  // All below under the lock.
  private final Map<Object, Kept<Entry>> entries = new LinkedHashMap<>();
  private final Map<Object, Kept<Version>> refusals = new LinkedHashMap<>();
  /** The highest position at which each tag changed. */
  private final Map<Long, Long> changed = new HashMap<>();

  private ByteString epoch = ByteString.EMPTY;
  private long position = -1;
  private long floor;
  private long leaseUntil = NO_LEASE;
  private TimeBounds bounds = new TimeBounds(Instant.EPOCH, Instant.EPOCH);
  private long sentAt;
  private long receivedAt;

  FeedCache(LongSupplier mono) {
    this.mono = mono;
  }

  /** What the next request acknowledges. */
  Version applied() {
    lock.lock();
    try {
      return new Version(epoch, position);
    } finally {
      lock.unlock();
    }
  }

  /** The nanoseconds for which entries may still be used; 0 without a lease. */
  long lease() {
    lock.lock();
    try {
      long now = mono.getAsLong();
      return now >= leaseUntil ? 0 : leaseUntil - now;
    } finally {
      lock.unlock();
    }
  }

  /** True if the entry may be used now. */
  boolean usable(Entry entry) {
    lock.lock();
    try {
      return usable(entry, mono.getAsLong());
    } finally {
      lock.unlock();
    }
  }

  private boolean usable(Entry entry, long now) {
    long at = entry.version().position();
    if (now >= leaseUntil || at < floor || !entry.version().epoch().equals(epoch)) {
      return false;
    }
    for (long tag : entry.tags()) {
      Long when = changed.get(tag);
      if (when != null && at < when) {
        return false;
      }
    }
    return true;
  }

  /** Bounds of the database's time now. They mean something only with a lease. */
  TimeBounds time() {
    lock.lock();
    try {
      long now = mono.getAsLong();
      return new TimeBounds(bounds.lower().plusNanos(now - receivedAt), bounds.upper().plusNanos(now - sentAt));
    } finally {
      lock.unlock();
    }
  }

  /** The usable entry of a key, or null. One that is not usable is dropped, unless only the lease is missing. */
  Entry entry(Object key) {
    lock.lock();
    try {
      Kept<Entry> kept = entries.get(key);
      if (kept == null) {
        return null;
      }
      long now = mono.getAsLong();
      if (now - kept.since() < ENTRY_LIFE) {
        if (usable(kept.value(), now)) {
          return kept.value();
        }
        if (now >= leaseUntil) {
          return null;
        }
      }
      entries.remove(key);
      return null;
    } finally {
      lock.unlock();
    }
  }

  /** True if the key was refused lately and nothing at all has changed since, so that the refusal still stands. */
  boolean refused(Object key) {
    lock.lock();
    try {
      Kept<Version> kept = refusals.get(key);
      if (kept == null) {
        return false;
      }
      long now = mono.getAsLong();
      if (now - kept.since() < REFUSAL_LIFE && stands(kept.value())) {
        return now < leaseUntil;
      }
      refusals.remove(key);
      return false;
    } finally {
      lock.unlock();
    }
  }

  private boolean stands(Version version) {
    return position <= version.position() && version.epoch().equals(epoch);
  }

  /** Keeps the facts of a token that was asked for at a time. */
  void store(Object key, Entry entry, long since) {
    lock.lock();
    try {
      if (usable(entry, mono.getAsLong())) {
        refusals.remove(key);
        put(entries, key, new Kept<>(entry, since));
      }
    } finally {
      lock.unlock();
    }
  }

  /** Keeps the answer that a string is no live token, asked for at a time. */
  void storeRefusal(Object key, Version version, long since) {
    lock.lock();
    try {
      entries.remove(key);
      if (stands(version)) {
        put(refusals, key, new Kept<>(version, since));
      }
    } finally {
      lock.unlock();
    }
  }

  /** Forgets the oldest of too many. */
  private static <T> void put(Map<Object, Kept<T>> map, Object key, Kept<T> kept) {
    map.remove(key);
    map.put(key, kept);
    if (map.size() > MAX_ENTRIES) {
      map.remove(map.keySet().iterator().next());
    }
  }

  /**
   * Applies an answer to the request that was sent at a time, whole and in one step, and tells the watchers before the next
   * request can acknowledge it.
   */
  void apply(FeedAnswer answer, long sent) {
    lock.lock();
    try {
      if (!answer.version().epoch().equals(epoch)) {
        forget(answer.version().epoch());
      }
      long at = answer.version().position();
      for (long tag : answer.changed()) {
        changed.merge(tag, at, Math::max);
      }
      floor = Math.max(floor, answer.floor());
      position = Math.max(position, at);
      if (changed.size() > MAX_TAGS) {
        floor = position;
        changed.clear();
      }
      if (answer.time() != null) {
        bounds = answer.time();
        sentAt = sent;
        receivedAt = mono.getAsLong();
        if (answer.lease() != null) {
          leaseUntil = Math.max(leaseUntil, sent + answer.lease());
        }
      }
    } finally {
      lock.unlock();
    }
    tell();
  }

  /** Ends the lease, for a cache that leaves the feed. */
  void dropLease() {
    lock.lock();
    try {
      leaseUntil = NO_LEASE;
    } finally {
      lock.unlock();
    }
    tell();
  }

  /** Every watcher is told, whatever another one does. */
  private void tell() {
    RuntimeException failure = null;
    for (Runnable watcher : watchers) {
      try {
        watcher.run();
      } catch (RuntimeException e) {
        failure = e;
      }
    }
    if (failure != null) {
      throw failure;
    }
  }

  /** Calls a watcher in the step of every answer, until the function that it returns is called. */
  Runnable watch(Runnable watcher) {
    watchers.add(watcher);
    return () -> watchers.remove(watcher);
  }

  private void forget(ByteString next) {
    leaseUntil = NO_LEASE;
    entries.clear();
    refusals.clear();
    changed.clear();
    floor = 0;
    epoch = next;
    position = -1;
  }
}
