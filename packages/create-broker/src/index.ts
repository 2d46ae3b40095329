export {
  type BrokerNames,
  brokerNames,
  type CreateBrokerOptions,
  type CreatedBroker,
  createBrokerPackage,
} from "./lib/create-broker-package.ts";
