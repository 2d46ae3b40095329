export type { S3BrokerConfig, S3Credentials, S3Encryption, S3Role } from "./lib/config.ts";
export { createS3Broker, type S3Broker, type S3BrokerOptions, type S3ClientLike, s3Broker } from "./lib/s3-broker.ts";
