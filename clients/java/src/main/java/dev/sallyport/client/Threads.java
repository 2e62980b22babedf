package dev.sallyport.client;

import java.util.concurrent.ThreadFactory;

final class Threads {
  private Threads() {}

  /** Threads that do not keep the process alive. */
  static ThreadFactory daemon(String name) {
    return task -> {
      Thread thread = new Thread(task, name);
      thread.setDaemon(true);
      return thread;
    };
  }
}
