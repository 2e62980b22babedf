package dev.sallyport.client;

import com.google.protobuf.ByteString;

/** Says which changes an answer includes. */
record Version(ByteString epoch, long position) {}
