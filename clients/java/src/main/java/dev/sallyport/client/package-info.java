/**
 * Checks Sallyport tokens in a gRPC service, with an optional cache that a revocation reaches at once. clients/README.md
 * says what every client promises.
 */
package dev.sallyport.client;
