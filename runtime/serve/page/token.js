// The token: taken from the part of the address behind the #, which is sent to nobody, and cleared there at once.
// It is kept for this window alone, so that a reload goes on by itself: a kiosk has no keyboard.

const NAME = "token";

export function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (location.hash) history.replaceState(null, "", location.pathname);
  if (found) sessionStorage.setItem(NAME, found);
  return sessionStorage.getItem(NAME);
}
