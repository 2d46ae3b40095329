import type { Broker } from "@stowage/core/broker";

export type MemberKind = "fact" | "required" | "optional";

/** Every member of a broker: a fact, a method that it must have, or one whose presence is a capability. Complete, or this does not compile. */
const MEMBERS: { readonly [Name in keyof Broker]-?: undefined extends Broker[Name] ? "optional" : "fact" | "required" } = {
  capabilities: "fact",
  downloadFile: "required",
  uploadFile: "required",
  moveFile: "required",
  deleteFile: "required",
  statFile: "required",
  listFiles: "required",
  errorCode: "required",
  close: "required",
  getFileSystemPath: "optional",
  downloadFiles: "optional",
  uploadFiles: "optional",
  moveFiles: "optional",
  deleteFiles: "optional",
  copyFile: "optional",
  openRead: "optional",
  openWrite: "optional",
  createSignedUrl: "optional",
  sweep: "optional",
};

export const brokerMembers: readonly (readonly [keyof Broker, MemberKind])[] = Object.entries(MEMBERS) as [keyof Broker, MemberKind][];
